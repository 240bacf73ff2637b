"""The PettingZoo environment: every balancer is an agent, all act at once.

Lives here: PettingZoo's interface. Never here: what a step is (`game`), spaces (`coding`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from testbed.sim import policies
from testbed.sim.env.coding import Coded, action_space, observation_space
from testbed.sim.env.episodes import Episodes
from testbed.sim.env.game import DEFAULT, STEP_S, Game, Options
from testbed.sim.env.render import Renderer, check_mode
from testbed.sim.scenario import Scenario

Infos = dict[str, dict[str, Any]]


class BalancersEnv(ParallelEnv[str, Coded, NDArray[np.float32]]):
    """Agents `balancer_0` … of one service; each sees its own flows only, as in `BalancerEnv`.

    Observations, actions, rewards, seeds and options are those of `BalancerEnv`. Where scenarios
    differ in their number of balancers, an episode has the first of the possible agents.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "lbd_balancers_v0",
        "render_modes": ["human", "ansi", "rgb_array"],
        "render_fps": round(1 / STEP_S),
        "is_parallelizable": True,
    }

    def __init__(
        self,
        scenarios: Sequence[Scenario] = (DEFAULT,),
        *,
        max_backends: int | None = None,
        options: Options | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_mode(render_mode)
        self._episodes = Episodes(scenarios, max_backends)
        self._options = options or Options()
        self.render_mode = render_mode
        self._renderer = Renderer(render_mode)
        most = max(scenario.balancers for scenario in scenarios)
        self.possible_agents = [f"balancer_{number}" for number in range(most)]
        self.agents: list[str] = []
        # One object each, for ever: their own random generators must keep their seeds.
        rows = self._episodes.max_backends
        self.observation_spaces = {name: observation_space(rows) for name in self.possible_agents}
        self.action_spaces = {name: action_space(rows) for name in self.possible_agents}
        self._rng = np.random.default_rng()
        self._game: Game | None = None
        self._about: dict[str, Any] = {}

    def observation_space(self, agent: str) -> spaces.Dict:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Box:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Coded], Infos]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        scenario, run_seed = self._episodes.next(self._rng, seed, options)
        everyone = range(scenario.balancers)
        self._game = Game(
            scenario,
            run_seed,
            policies.rule("sed"),
            everyone,
            self._episodes.max_backends,
            self._options,
        )
        self._about = {"scenario": scenario.name, "seed": run_seed}
        self.agents = [self.possible_agents[number] for number in everyone]
        self._show_human()
        return self._observations(self._game), self._infos(self._game)

    def step(
        self, actions: Mapping[str, NDArray[np.float32]]
    ) -> tuple[dict[str, Coded], dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        game = self._running()
        numbers = {name: number for number, name in enumerate(self.agents)}
        game.step({numbers[name]: action for name, action in actions.items()})
        self._show_human()
        observations = self._observations(game)
        rewards = {name: game.reward(number) for name, number in numbers.items()}
        terminated = dict.fromkeys(self.agents, False)
        truncated = dict.fromkeys(self.agents, game.over)
        infos = self._infos(game)
        if game.over:
            figures = game.figures()
            for info in infos.values():
                info |= figures
            self.agents = []
        return observations, rewards, terminated, truncated, infos

    def render(self) -> Any:
        return self._renderer.show(self._running())

    def close(self) -> None:
        self._renderer.close()

    def _running(self) -> Game:
        if self._game is None:
            raise RuntimeError("call reset first")
        return self._game

    def _observations(self, game: Game) -> dict[str, Coded]:
        return {name: game.observation(number) for number, name in enumerate(self.agents)}

    def _infos(self, game: Game) -> Infos:
        return {name: {**self._about, "now_s": game.now_s} for name in self.agents}

    def _show_human(self) -> None:
        if self.render_mode == "human":
            self._renderer.show(self._running())
