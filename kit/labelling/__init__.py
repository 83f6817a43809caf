"""The server of labelling projects: its page, its links, and what goes in and out."""
