"""Acting: the policy as numpy arithmetic. Torch is never imported here."""
