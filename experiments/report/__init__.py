"""Tables, figures and pages, built from the studies in results/."""
