"""The package's version, as it stands in what odl writes."""

VERSION = "0.1.0"
