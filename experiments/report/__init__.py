"""Tables, figures and pages, drawn from what studies left in results/."""
