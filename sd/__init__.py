"""What a service manager and its services say to each other, by sd_notify(3) and sd_listen_fds(3).

Lives here: both protocols, for `lbd` and `agent` alike; nothing happens where there is no manager.
Never here: what a daemon has to say.
"""
