"""The Gymnasium environment: one balancer learns, the others follow a rule or the same policy.

Lives here: Gymnasium's interface. Never here: what a step is (`game`), spaces (`coding`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from testbed.sim import policies
from testbed.sim.env.coding import Coded, action_space, observation_space
from testbed.sim.env.episodes import Episodes
from testbed.sim.env.game import DEFAULT, STEP_S, Game, Options
from testbed.sim.env.render import Renderer, check_mode
from testbed.sim.scenario import Scenario

Act = Callable[[Coded], NDArray[Any]]
"""A policy: an observation of `observation_space` to an action of `action_space`."""


class BalancerEnv(gymnasium.Env[Coded, NDArray[np.float32]]):
    """The last balancer of the scenario takes the actions; a step lasts 0.25 s of simulated time.

    Observation: the live agent's features of each backend and of the service, and a mask. Action:
    the live policy's; first of all log-weights over their bound, by which the balancer chooses by
    shortest expected delay; all 0 are equal weights. Reward: fairness of the flow durations, at
    its maximum when all are equal: VBF+logVBF of two backends that take 1 s and 3 s, relative to
    their mean 0.5 and 1.5, is -0.25 - log(0.251) = 1.13, and 6.91 where both take the same. An
    episode ends with the scenario (truncated); its last info has `mean_s`, `p99_s` of completion
    times and the share `failed`.

    scenarios: one is drawn for each episode, or named in reset's option `scenario`.
    others: the name of a rule (`testbed.sim.policies.names`), or a policy that every other
    balancer acts by. reset(seed=n) simulates the same flows as every other run of seed n.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["human", "ansi", "rgb_array"],
        "render_fps": round(1 / STEP_S),
    }

    def __init__(
        self,
        scenarios: Sequence[Scenario] = (DEFAULT,),
        *,
        others: str | Act = "lsq",
        max_backends: int | None = None,
        options: Options | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_mode(render_mode)
        self._episodes = Episodes(scenarios, max_backends)
        self._policy = None if isinstance(others, str) else others
        self._rule = policies.rule(others if isinstance(others, str) else "sed")
        self._options = options or Options()
        self.render_mode = render_mode
        self._renderer = Renderer(render_mode)
        self.observation_space = observation_space(self._episodes.max_backends)
        self.action_space = action_space(self._episodes.max_backends)
        self._game: Game | None = None
        self._learner = 0
        self._about: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Coded, dict[str, Any]]:
        super().reset(seed=seed)
        scenario, run_seed = self._episodes.next(self.np_random, seed, options)
        everyone = range(scenario.balancers)
        self._learner = everyone[-1]
        led = (self._learner,) if self._policy is None else everyone
        self._game = Game(
            scenario, run_seed, self._rule, led, self._episodes.max_backends, self._options
        )
        self._about = {"scenario": scenario.name, "seed": run_seed}
        self._show_human()
        return self._game.observation(self._learner), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Coded, float, bool, bool, dict[str, Any]]:
        game = self._running()
        actions: dict[int, NDArray[Any]] = {self._learner: action}
        if self._policy is not None:
            for balancer in game.led[:-1]:
                actions[balancer] = self._policy(game.observation(balancer))
        game.step(actions)
        observation, reward = game.observation(self._learner), game.reward(self._learner)
        self._show_human()
        info = self._info()
        if over := game.over:
            info |= game.figures()
        return observation, reward, False, over, info

    def render(self) -> Any:
        return self._renderer.show(self._running())

    def close(self) -> None:
        self._renderer.close()

    def _running(self) -> Game:
        if self._game is None:
            raise gymnasium.error.ResetNeeded("call reset first")
        return self._game

    def _info(self) -> dict[str, Any]:
        return {**self._about, "now_s": self._running().now_s}

    def _show_human(self) -> None:
        if self.render_mode == "human":
            self._renderer.show(self._running())
