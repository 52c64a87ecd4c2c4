"""The longer commands of `kumo`: they read rows and print; what they start is a play in check mode."""
