"""What training in binary16 reaches, beside the same recipe in binary32 by PyTorch."""
