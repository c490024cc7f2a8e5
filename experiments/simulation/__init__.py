"""How far verdicts can be trusted: studies simulated on surfaces with known answers, other protocols on our trials."""
