"""The commands, one a file: what each takes and says. Answers come from `odl.api`, `odl.results` and `odl.render`."""
