"""The papers' experiments: traffic through a balancer's place to servers, method by method.

Reading order: `schema` (an experiment's file), `demand` and `sites` (what is asked for), `methods`
(what stands in the balancer's place), `truth` and `probing` (what the servers really do), `round`
(one run), `store` (what is kept), `season` (all runs), `figures`, `beside` (the papers' figures),
`report`, `command`.
"""
