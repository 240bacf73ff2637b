"""The figures of the papers that a simulator can repeat, beside what the papers print.

Lives here: one module a figure or table, `command` that runs them, `plots` that draws them.
Source: Yao and Ding, "Learning Distributed and Fair Policies for Network Load Balancing as Markov
Potential Game" (NeurIPS 2022): Fig. 2a with App. E.1, Fig. 2b with App. A, Table 3 with App. E.1.
"""
