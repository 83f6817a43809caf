"""How much truth is there to be had from the reward model of the demo world, however well it is optimised?

    python benchmarks/reward_ceiling.py [--seeds 3 4 5] [--prompts 100] [--answers 64]

For every seed, the SFT and the reward adapter are those of benchmarks/ppo_learning_vs_trl.py. SFT answers each
held-out prompt many times. For a KL coefficient c, the policy that maximises E[score] - c KL(policy || SFT) is known in
closed form, SFT's reweighted by exp(score / c) (Korbak et al. 2022, arXiv:2205.11275): so weighting these answers gives
what a perfect optimiser of this very reward model would reach, without any training. The best of n answers stands
beside it. Where the true reward stops rising while the score goes on, what is left to gain are the reward model's
errors (Gao et al. 2022, arXiv:2210.10760).

Prints, per seed, KL in nats, score (proxy) and true reward for each c, and score and true reward of the best of n. From
N answers no KL above log N can be seen, and near it the numbers are rough.
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from ppo_learning_vs_trl import DRAW, run_start, start_of

COEFFICIENTS = (2.0, 1.0, 0.7, 0.5, 0.35, 0.25, 0.15)  # score units per nat
Drawn = Sequence[tuple[float, float]]  # (score, true reward) of SFT's answers to one prompt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--prompts", type=int, default=100, help="held-out prompts")
    parser.add_argument("--answers", type=int, default=64, help="of SFT to each prompt")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # before torch is imported
    for seed in arguments.seeds:
        drawn = draw(run_start(seed), arguments.prompts, arguments.answers)
        print(f"seed {seed}, {len(drawn)} prompts x {arguments.answers} answers of SFT")
        print(f"{'':>8}{'KL, nats':>10}{'proxy':>8}{'true':>8}")
        for coefficient in COEFFICIENTS:
            kl, proxy, true = (
                statistics.mean(x) for x in zip(*(tilted(row, coefficient) for row in drawn), strict=True)
            )
            print(f"c = {coefficient:4g}{kl:10.2f}{proxy:8.2f}{true:8.2f}")
        for n in (2**k for k in range(int(math.log2(arguments.answers)) + 1)):
            best = [max(row[at : at + n]) for row in drawn for at in range(0, len(row) - n + 1, n)]
            proxy, true = (statistics.mean(x) for x in zip(*best, strict=True))
            print(f"best of {n:<3}{'':7}{proxy:8.2f}{true:8.2f}", flush=True)
    return 0


def tilted(drawn: Drawn, coefficient: float) -> tuple[float, float, float]:
    """(KL from SFT in nats, mean score, mean true reward) of SFT reweighted by exp(score / coefficient)."""
    top = max(score for score, _ in drawn)
    weights = [math.exp((score - top) / coefficient) for score, _ in drawn]
    shares = [weight / sum(weights) for weight in weights]
    kl = sum(share * math.log(share * len(drawn)) for share in shares if share > 0)
    return (
        kl,
        sum(share * score for share, (score, _) in zip(shares, drawn, strict=True)),
        sum(share * true for share, (_, true) in zip(shares, drawn, strict=True)),
    )


def draw(run: Path, prompts: int, answers: int) -> list[list[tuple[float, float]]]:
    """(score, true reward) of so many answers of SFT to each of the held-out prompts."""
    import torch

    from kit.compare.answers import choose_prompts
    from kit.demo.world import truth_of_messages
    from kit.models.generation import sample, score
    from kit.models.roles import policy_roles
    from kit.notices import quiet_libraries

    torch.set_num_threads(1)
    with quiet_libraries():
        config, base, data = start_of(run)
        asked = choose_prompts(data.prompts.held_out, prompts, config.seed)
        ids, size = [prompt.ids for prompt in asked], config.compare.batch_size
        roles = policy_roles(base.causal_lm(), run / "sft", trainable=False)
        roles.add("reward", run / "reward")
        rows: list[list[tuple[float, float]]] = [[] for _ in asked]
        for number in range(answers):
            responses = sample(
                roles, "policy", ids, config.data.max_response_tokens, 1.0, config.seed + number * DRAW, size
            )
            scores = score(roles, ids, responses, size)
            for row, prompt, response, its_score in zip(rows, asked, responses, scores, strict=True):
                row.append((its_score, truth_of_messages(prompt.messages, base.codec.text(response))))
    return rows


if __name__ == "__main__":
    sys.exit(main())
