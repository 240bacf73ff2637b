"""The status page: what a person sees of the daemon in a browser, live.

Lives here: the page and what it is told. Never here: a figure of its own; all are the regions'.
Without assets from elsewhere and without a build step: three files, served as they are.
"""
