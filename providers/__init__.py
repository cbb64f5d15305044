"""The providers: one file or folder for each upstream, and what all of them share."""
