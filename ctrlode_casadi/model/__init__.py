"""Networks, parameter layouts and controlled differential equations as CasADi expressions."""
