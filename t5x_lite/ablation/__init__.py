"""The ablation lab: which architecture, with which objective, at what cost."""
