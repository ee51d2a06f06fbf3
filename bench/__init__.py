"""What slowspan costs, measured beside a control in the same run: ``python -m bench [--quick] [names...]``."""
