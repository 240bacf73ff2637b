"""What puts load on the balancer and judges it: servers, load, experiments, the demo.

Lives here: everything that a measurement needs and a deployment does not.
Never here: anything that `lbd` or `agent` import; imports go from here to them only.
"""
