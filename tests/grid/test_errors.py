"""What a wrong grid file says: the place, the key, and how to mend it; all mistakes at once."""

from __future__ import annotations

import os

import numpy as np
import pytest

from orchestrator.errors import GridError, StorageUnavailable
from orchestrator.grid import data_files, load_grid, parse_grid
from workloads.optimizers import OPTIMIZERS

GOOD = """\
name: g
fixed:
  problem: {kind: matrix_completion, shape: [3, 3], target: {rank: 1}, observed: 5}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 0.1}
  optimizer: {kind: gd, lr: 0.1}
  stop: {steps: 10}
"""
IDLE = "has no effect: the trials that it is set for draw nothing by it, and would be the same for all seeds"


def errors(text, overrides=(), folder=None):
    with pytest.raises(GridError) as caught:
        parse_grid(text, "g.yaml", *([folder] if folder else []), overrides=overrides)
    assert caught.value.exit_code == 2
    return caught.value.mistakes


def swapped(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


def test_the_good_one_is_good():
    assert len(parse_grid(GOOD).trials) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (swapped("lr: 0.1", "lrr: 0.1"), "g.yaml:6:25: optimizer.lrr: unknown key; did you mean lr?"),
        (swapped("optimizer:", "optimiser:"), "g.yaml:6:3: optimiser: unknown key; did you mean optimizer?"),
        (GOOD + "girds: {}\n", "g.yaml:8:1: girds: unknown key; did you mean grid?"),
        (GOOD + "optimizer: {lr: 1}\n", "g.yaml:8:1: optimizer: belongs under fixed: fixed: {optimizer: ...}"),
        (swapped("depth: 2", "depth: 2, components: 3"), "g.yaml:4:48: factorization.components: has no effect with factorization.kind deep_matrix"),
        (swapped("lr: 0.1", "lr: 0.1, beta: 0.9"), "g.yaml:6:34: optimizer.beta: has no effect with optimizer.kind gd"),
        (swapped("lr: 0.1", "lr: fast"), "g.yaml:6:25: optimizer.lr: must be a number, not 'fast'"),
        (swapped("lr: 0.1", "lr: -0.1"), "g.yaml:6:25: optimizer.lr: must be above 0.0, not -0.1"),
        (swapped("lr: 0.1", "lr: .nan"), "g.yaml:6:25: optimizer.lr: must be a finite number, not nan"),
        (swapped("lr: 0.1", "lr: '0.1'"), "g.yaml:6:25: optimizer.lr: must be a number, not '0.1'"),
        (swapped("rank: 1", "rank: 2, condition: 1e300"), "g.yaml:3:71: problem.target.condition: must be at most 1000000000000000.0, not 1e+300"),
        (swapped("rank: 1", "rank: 1, frobenius: 1e308"), "g.yaml:3:71: problem.target.frobenius: must be at most 1e+152, not 1e+308"),
        (swapped("rank: 1", "rank: 1, frobenius: 1e-300"), "g.yaml:3:71: problem.target.frobenius: must be at least 1e-152, not 1e-300"),
        (swapped("rank: 1", "rank: 1, spectrum: [1e308]"), "g.yaml:3:82: problem.target.spectrum[0]: must be at most 1e+152, not 1e+308"),
        (swapped("observed: 5", "observed: 5, noise: {std: 1e300}"), "g.yaml:3:93: problem.noise.std: must be at most 1e+152, not 1e+300"),
        (swapped("target: {rank: 1}, observed: 5", "entries: [[0, 1, -1e308]]"), "g.yaml:3:63: problem.entries[0]: has a value beyond 1e+152, whose square floating point does not hold"),
        (swapped("scale: 0.1", "scale: 1e200"), "g.yaml:5:26: init.scale: must be at most 1e+152, not 1e+200"),
        (swapped("scale: 0.1", "scale: 1e100, balanced: true"), "g.yaml:5:26: init.scale: makes a product near 1e+200, too large to be balanced"),
        (swapped("scale: 0.1", "scales: [1e-100, 1e-90], balanced: true"), "g.yaml:5:26: init.scales: makes a product near 1e-190, too small to be balanced"),
        (swapped("rank: 1", "frobenius: 2"), "g.yaml:3:62: problem.target.rank: is missing"),
        (swapped("observed: 5", "observed: 5, noise.seed: 5"), "g.yaml:3:85: problem.noise.std: is missing"),
        (GOOD + "record: {points: &a0 {x: 1}}\nresources:\n" + "".join(f"  a{n}: &a{n} {{x: *a{n - 1}}}\n" for n in range(1, 900)), "g.yaml:47:17: is nested more than 40 levels deep"),
        (swapped("depth: 2", "depth: 0"), "g.yaml:4:38: factorization.depth: must be at least 1, not 0"),
        (swapped("depth: 2", "depth: 2.5"), "g.yaml:4:38: factorization.depth: must be a whole number, not 2.5"),
        (swapped("scale: 0.1", "scale: 0.1, balanced: 1"), "g.yaml:5:38: init.balanced: must be true or false, not 1"),
        (swapped("observed: 5", "observed: 10"), "g.yaml:3:72: problem.observed: is 10, but shape [3, 3] has only 9 entries"),
        (swapped("observed: 5", "observed: 1.5"), "g.yaml:3:72: problem.observed: a fraction of the entries lies in (0, 1]; a count is a whole number of at least 1"),
        (swapped("rank: 1", "rank: 4"), "g.yaml:3:62: problem.target.rank: is 4, but a matrix of shape [3, 3] has rank 3 at most"),
        (swapped("shape: [3, 3]", "shape: [3, 3, 3]").replace("{kind: deep_matrix, depth: 2}", "{kind: cp}"), "g.yaml:3:38: problem.shape: matrix_completion is about matrices: two dimensions, not 3"),
        (swapped("shape: [3, 3]", "shape: [3, x]"), "g.yaml:3:49: problem.shape[1]: must be a whole number, not 'x'"),
        (swapped("kind: gd", "kind: sgd"), "g.yaml:6:15: optimizer.kind: unknown kind 'sgd'; did you mean gd? (--with FILE.py brings kinds of your own)"),
        (swapped("kind: gd, ", ""), f"g.yaml:6:15: optimizer.kind: is missing: one of {', '.join(OPTIMIZERS)}"),
        (swapped("  optimizer: {kind: gd, lr: 0.1}\n", ""), "g.yaml:2:1: optimizer: is missing: put it under fixed, cases or an axis"),
        (swapped("  optimizer: {kind: gd, lr: 0.1}\n", "  optimizer: gd\n"), "g.yaml:6:3: optimizer: must be a mapping of keys, not 'gd'"),
        (swapped("steps: 10", "loss: 0.1"), "g.yaml:7:10: stop: needs steps or seconds: without them a trial might never end"),
        (swapped("steps: 10", "steps: 10, consecutive: 3"), "g.yaml:7:21: stop.consecutive: has no effect without stop.loss"),
        (swapped("steps: 10", "steps: 10, when: error <"), "g.yaml:7:21: stop.when: 'error <' is not an expression such as abs(det) > 1e-3: look for a missing operator or bracket"),
        (swapped("steps: 10", "steps: 10, when: 3"), "g.yaml:7:21: stop.when: must be text, not 3"),
        (swapped("steps: 10", "steps: 10, abort: 2 * loss"), "g.yaml:7:21: stop.abort: '2 * loss' is a number, not a condition: compare it with something, such as error < 1e-3"),
        (swapped("steps: 10", "steps: 10, abort: 1 < 2"), "g.yaml:7:21: stop.abort: '1 < 2' is always the same: it names no measure"),
        (swapped("steps: 10", "steps: 10, when: first(eror) < 1"), "g.yaml:7:21: stop.when: there is no eror in the trial's measures; did you mean error?"),
        (swapped("steps: 10", "steps: 10, when: singular_values < 1"), "g.yaml:7:21: stop.when: singular_values is several numbers: sv_0 and so on"),
        (swapped("steps: 10", "steps: 10, when: unfolding_effective_rank_0 < 1"), "g.yaml:7:21: stop.when: there is no unfolding_effective_rank_0 in the trial's measures; did you mean effective_rank?"),
        (swapped("steps: 10", "steps: 10, when: multilinear_rank < 1"), "g.yaml:7:21: stop.when: multilinear_rank is defined for tensors of order three or more"),
        (swapped("scale: 0.1", "scale: 0.1, product_scale: 1"), "g.yaml:5:38: init.product_scale: has no effect beside init.scale: give one of them"),
        (swapped(", scale: 0.1", ""), "g.yaml:5:10: init: needs scale (one factor's), scales (each factor's) or product_scale (the product's)"),
        (swapped("{kind: deep_matrix, depth: 2}", "{kind: linear}"), "g.yaml:5:10: init: has no effect with factorization.kind linear, which starts from zero: where it is set for other trials, null takes it away"),
        (swapped("shape: [3, 3]", "shape: [3, 4]").replace("scale: 0.1", "scale: 0.1, det_sign: positive"), "g.yaml:5:38: init.det_sign: needs a square matrix, but shape is [3, 4]"),
        (swapped("depth: 2", "depth: 3, widths: [4]"), "g.yaml:4:48: factorization.widths: depth 3 has 2 hidden widths, not 1"),
        (swapped("target: {rank: 1}, observed: 5", "entries: [[0, 3, 1.0]]"), "g.yaml:3:63: problem.entries[0]: index [0, 3] lies outside shape [3, 3] (counting from 0)"),
        (swapped("target: {rank: 1}, observed: 5", "entries: [[0, 1, 1], [0, 1, 2]]"), "g.yaml:3:74: problem.entries[1]: observes [0, 1] again; it is entry 0 already"),
        (swapped("target: {rank: 1}, observed: 5", "entries: [[0, 1, 1]], seed: 3"), "g.yaml:3:75: problem.seed: has no effect with problem.entries: nothing is drawn"),
        (swapped("name: g", "name: a/b"), "g.yaml:1:1: name: must have at most 100 characters, no slash, colon or control character, and no dot in front"),
        (swapped("name: g", "name: 3"), "g.yaml:1:1: name: must be text, not 3"),
        (swapped("name: g\n", ""), "g.yaml:1:1: name: is missing: it names the MLflow experiment"),
        (GOOD + "grid: {factorization.depth: []}\n", "g.yaml:8:8: factorization.depth: is an empty axis: give at least one value, or leave the key out"),
        (GOOD + "grid: {factorization.depth: 2}\n", "g.yaml:8:8: factorization.depth: must be a list of values, not 2; a single value belongs under fixed"),
        (GOOD + "zip: {factorization.depth: [2, 3], optimizer.lr: [1]}\n", "g.yaml:8:1: zip: axes that advance together need equally many values, but factorization.depth has 2, optimizer.lr has 1"),
        (GOOD + "grid: {seed: [1]}\nseeds: 2\n", "g.yaml:9:1: seed: is set by grid.seed already: one axis sets a key"),
        (swapped("  stop:", "  seed: 1\n  stop:") + "seeds: 2\n", "g.yaml:7:3: seed: has no effect: seeds sets it"),
        (GOOD + "seeds: []\n", "g.yaml:8:1: seeds: is an empty axis: give at least one seed, or leave the key out"),
        (GOOD + "seeds: many\n", "g.yaml:8:1: seeds: must be a whole number of at least 1, a list of seeds or a range such as 0..9, not 'many'"),
        (GOOD + "seeds: [1, 1]\n", "g.yaml:8:12: seed: points 1 and 2 of the grid are the same trial: every value of an axis has to make a difference"),
        (swapped("gaussian", "identity") + "seeds: 5\n", f"g.yaml:8:1: seed: {IDLE}"),
        (swapped("gaussian", "identity") + "seeds: [3]\n", f"g.yaml:8:1: seed: {IDLE}"),
        (swapped("gaussian", "identity") + "grid: {seed: [1, 2]}\n", f"g.yaml:8:8: seed: {IDLE}"),
        (swapped("gaussian", "identity") + "  seed: 3\n", f"g.yaml:8:3: seed: {IDLE}"),
        (GOOD + "cases: [{seed: 1}, {init.kind: identity, seed: 1}]\n", f"g.yaml:8:42: seed: {IDLE}"),
        (GOOD + "cases: [{optimizer.lr: 1}, {init.kind: identity}]\nseeds: [1, 1]\n", "g.yaml:9:12: seed: points 1 and 2 of the grid are the same trial: every value of an axis has to make a difference"),
        (GOOD + "cases: [{init.kind: identity}]\ngrid: {init.scale: [1, 1]}\n", "g.yaml:9:24: init.scale: points 1 and 2 of the grid are the same trial: every value of an axis has to make a difference"),
        (GOOD + "seeds: 2000000\n", "g.yaml:8:1: seeds: are more than 1,000,000, which is as many trials as a grid may have"),
        (GOOD + f"seeds: 1000\ngrid: {{optimizer.lr: {[*range(1, 2001)]}}}\n", "g.yaml:1:1: has 2,000,000 trials, more than the 1,000,000 that a grid may have"),
        (GOOD + "random: {samples: 2, optimizer.lr: {normal: [0, 1]}}\n", "g.yaml:8:37: optimizer.lr: unknown distribution 'normal': known are uniform, loguniform, choice, integers"),
        (GOOD + "random: {samples: 2, optimizer.lr: {loguniform: [0, 1]}}\n", "g.yaml:8:37: optimizer.lr: loguniform needs bounds above 0"),
        (GOOD + "random: {samples: 0, optimizer.lr: {uniform: [0.1, 1]}}\n", "g.yaml:8:10: random.samples: must be a whole number of at least 1, not 0"),
        (GOOD + "exclude: [{optimizer.lr: 5}]\n", "g.yaml:8:11: exclude: leaves out nothing: no trial has {'optimizer.lr': 5}"),
        (GOOD + "exclude: [{optimizer.lr: 0.1}]\n", "g.yaml:8:1: exclude: leaves out every trial"),
        (GOOD + "record: {measures: [nuclaer]}\n", "g.yaml:8:21: record.measures: unknown measure 'nuclaer'; did you mean nuclear?"),
        (GOOD + "record: {measures: [components]}\n", "g.yaml:8:21: record.measures: components is defined for factorization.kind cp only"),
        (GOOD + "record: {measures: [entry_3_0]}\n", "g.yaml:8:21: record.measures: entry_3_0 needs an index inside shape [3, 3] (counting from 0)"),
        (GOOD + "record: {points: 5, steps: [1]}\n", "g.yaml:8:10: record.points: has no effect beside record.steps: give one of them"),
        (GOOD + "record: {every: 5}\n", "g.yaml:8:10: record.every: unknown key: known are points, steps, measures, checkpoint_steps, checkpoint_losses, references"),
        (GOOD + "resources: {gpus: some}\n", "g.yaml:8:13: resources.gpus: must be auto or a number, not 'some'"),
        (GOOD + "resources: {cpus: 0}\n", "g.yaml:8:13: resources.cpus: must be above 0.0, not 0"),
        (GOOD + "figures: {a: {y: loss}}\n", "g.yaml:8:11: figures.a.kind: is missing: one of trajectories, medians, heatmap, points, threshold, spectrum"),
        (GOOD + "figures: {a: {kind: trajectory, y: loss}}\n", "g.yaml:8:15: figures.a.kind: unknown kind 'trajectory'; did you mean trajectories?"),
        (GOOD + "figures: {a b: {kind: medians}}\n", "g.yaml:8:11: figures.a b: must be named by at most 100 letters, digits, - and _, as files are called after it"),
        (GOOD + f"figures: {{a{'表' * 90}: {{kind: medians}}}}\n", f"g.yaml:8:11: figures.a{'表' * 90}: must be named by at most 100 letters, digits, - and _, as files are called after it"),
        (GOOD + "figures: {a: {kind: trajectories, y: los}}\n", "g.yaml:8:35: figures.a.y: there is no los in the runs; did you mean loss?"),
        (GOOD + "figures: {a: {kind: threshold, x: seed, of: factorization.kind, when: rate(loss < 1) > 0}}\n", "g.yaml:8:41: figures.a.of: must be a number, and factorization.kind is text"),
        (GOOD + "claims: {a: {kind: bound, that: loss == 'huber'}}\n", "g.yaml:8:27: claims.a.that: \"loss == 'huber'\": loss is a number, and 'huber' text: the kind of the loss is spec.loss"),
        (GOOD + "claims: {a: {kind: bound, that: error > 0, where: 2 < spec.loss}}\n", "g.yaml:8:44: claims.a.where: '2 < spec.loss': spec.loss is text, and 2 a number: they cannot be compared"),
        (GOOD + "figures: {a: {kind: medians, x: optimizer.kind == 3, y: error}}\n", "g.yaml:8:30: figures.a.x: 'optimizer.kind == 3': optimizer.kind is text, and 3 a number: they cannot be compared"),
        (GOOD + "figures: {a: {kind: medians, x: loss.kind, y: error}}\n", "g.yaml:8:30: figures.a.x: there is no loss.kind in the runs; did you mean spec.loss?"),
        (GOOD + "claims: {a: {kind: monotone, of: error, along: factorization.kind, direction: rising}}\n", "g.yaml:8:41: claims.a.along: must be a number, and factorization.kind is text"),
        (GOOD + "claims: {a: {kind: within, of: outcome, range: [0, 1]}}\n", "g.yaml:8:28: claims.a.of: must be a number, and outcome is text"),
        (GOOD + "figures: {a: {kind: trajectories, y: det}}\n", "g.yaml:8:35: figures.a.y: there is no det in the runs: is it recorded?"),
        (GOOD + "figures: {a: {kind: trajectories, y: loss, lines: {loss: {a: 1}}}}\n", "g.yaml:8:44: figures.a.lines: has no effect with figures.a.kind trajectories"),
        (GOOD + "figures: {a: {kind: trajectories, y: loss, log: z}}\n", "g.yaml:8:44: figures.a.log: must be of x, y, color, not z"),
        (GOOD + "figures: {a: {kind: trajectories, y: loss, log: y, y_range: [0, 1]}}\n", "g.yaml:8:52: figures.a.y_range: must be above 0, as log has y: 0 has no place on such a scale"),
        (GOOD + "figures: {a: {kind: medians, x: optimizer.lr, y: loss, log: loss, y_range: [-1, null]}}\n", "g.yaml:8:67: figures.a.y_range: must be above 0, as log has y: -1 has no place on such a scale"),
        (GOOD + "figures: {a: {kind: trajectories, y: loss, x_range: [2, 1]}}\n", "g.yaml:8:44: figures.a.x_range: must go from the lower end to the higher one; reverse: x turns the axis round"),
        (GOOD + "figures: {a: {kind: trajectories, y: 'loss; exit'}}\n", "g.yaml:8:35: figures.a.y: 'loss; exit' has a ';' at character 5, which is not understood"),
        (GOOD + "claims: {a: {kind: bound, that: error}}\n", "g.yaml:8:27: claims.a.that: 'error' is a number, not a condition: compare it with something, such as error > 0"),
        (GOOD + "claims: {a: {kind: bound, that: exec(error) > 0}}\n", "g.yaml:8:27: claims.a.that: 'exec(error) > 0' has an unknown function exec: known are abs, sqrt, exp, log, log10, sign, round, floor, ceil, isfinite, min, max, first, lowest, highest"),
        (GOOD + "claims: {a: {kind: within, of: error, range: [null, null]}}\n", "g.yaml:8:39: claims.a.range: is open at both ends: give at least one bound"),
        (GOOD + "claims: {a: {kind: within, of: step, range: [0, 1]}}\n", "g.yaml:8:28: claims.a.of: there is no step in the runs; did you mean steps?"),
        (GOOD + "claims: {a: {kind: within, of: error, range: [0, 1], where: problem.kind == cp}}\n", "g.yaml:8:54: claims.a.where: there is no cp in the runs (text is in quotes: 'cp'): known are dtype, effective_rank, error, factorization.depth, factorization.kind, factorization.widths, frobenius, init.balanced, init.kind, init.scale, loss, optimizer.kind, optimizer.lr, outcome, problem.kind, problem.observed, problem.seed, problem.shape, problem.target.frobenius, problem.target.rank, seconds, seed, spec.loss, steps, stop.check_every, stop.consecutive, stop.steps, sweep"),
        (swapped("lr: 0.1}", "lr: 0.1, lr: 0.2}"), "g.yaml:6:34: fixed.optimizer.lr: is given twice (first in line 6)"),
        (swapped("  stop:", "  optimizer.lr: 0.2\n  stop:"), "g.yaml:7:3: optimizer.lr: is given twice: once dotted and once nested"),
        (swapped("{kind: gd, lr: 0.1}", "!!python/object:os.system {}"), "g.yaml:6:14: YAML tags such as tag:yaml.org,2002:python/object:os.system are not supported"),
        (GOOD + "---\nname: other\n", "g.yaml:8:1: a grid file holds one document: remove what follows ---"),
        (swapped("lr: 0.1}", "lr: 0.1"), "g.yaml:7:7: is not valid YAML: did not find expected ',' or '}'"),
        ("", "g.yaml: is empty"),
        ("- a\n- b\n", "g.yaml:1:1: must be a mapping with keys such as name, fixed and grid"),
        ("name: [*x]\n", "g.yaml:1:8: alias *x comes before its anchor is complete"),
        ("x: " + "[" * 60 + "]" * 60, "g.yaml:1:43: is nested more than 40 levels deep"),
        (swapped("  stop:", "  <<: {a: 1}\n  stop:"), "g.yaml:7:3: fixed.<<: merge keys are not supported: write the keys out"),
        (swapped("lr: 0.1}", 'lr: 0.1, "a\\nb\\e[2J": 1}'), "g.yaml:6:34: optimizer.a\\nb\\x1b[2J: unknown key: known are kind, lr, schedule, clip, weight_decay, batch, label_noise"),
        (swapped("lr: 0.1}", f"lr: 0.1, ? {'k' * 300}\n : 1}}"), "g.yaml:6:36: a key has 300 characters, more than the 200 that any may have"),
        (swapped("lr: 0.1}", f"lr: 0.1, {'.'.join('a' * 50)}: 1}}"), "g.yaml:6:34: optimizer: is nested more than 40 levels deep"),
        (swapped("shape: [3, 3]", "shape: [100000, 100000]"), "g.yaml:3:38: problem.shape: has 10,000,000,000 entries, more than the 4,294,967,296 that can be trained"),
        (swapped("rank: 1", "rank: 5").replace("{kind: matrix_completion, shape: [3, 3]", "{kind: tensor_completion, shape: [2, 2, 2]").replace("{kind: deep_matrix, depth: 2}", "{kind: cp}"), "g.yaml:3:65: problem.target.rank: is 5, but a tensor of shape [2, 2, 2] has rank 4 at most"),
        (swapped("observed: 5", "observed: 1_000_000_000").replace("completion", "sensing"), "g.yaml:3:69: problem.observed: makes measurements of 9,000,000,000 entries, more than the 4,294,967,296 that can be trained on"),
        (swapped("observed: 5", "observed: 1_000_000_000_000").replace("completion", "sensing"), "g.yaml:3:69: problem.observed: must be at most 4,294,967,296, not 1000000000000"),
        (swapped("depth: 2", "depth: 1_000_000_000"), "g.yaml:4:38: factorization.depth: must be at most 1000, not 1000000000"),
        (swapped("depth: 2", "depth: 2, widths: 10_000_000_000"), "g.yaml:4:19: factorization: has 60,000,000,000 parameters, more than the 4,294,967,296 that can be trained"),
        (swapped("{kind: deep_matrix, depth: 2}", "{kind: cp, components: 10_000_000_000}"), "g.yaml:4:19: factorization: has 60,000,000,000 parameters, more than the 4,294,967,296 that can be trained"),
        (swapped("steps: 10", "steps: 1e17"), "g.yaml:7:10: stop.steps: must be at most 9007199254740992, not 1e+17"),
        (GOOD + "record: {steps: [1, 1e17]}\n", "g.yaml:8:21: record.steps[1]: must be at most 9007199254740992, not 1e+17"),
        (GOOD + "random: {samples: 1_000_000_000, optimizer.lr: {uniform: [0.1, 1]}}\n", "g.yaml:8:10: random.samples: are more than 1,000,000, as many as a grid may have trials"),
        (GOOD + "random: {samples: 2, optimizer.lr: {uniform: [-1e308, 1e308]}}\n", "g.yaml:8:37: optimizer.lr: uniform needs bounds whose difference is a number that floating point can hold"),
        (GOOD + "exclude: [{problem.size: 9}]\n", "g.yaml:8:12: problem.size: unknown key; did you mean problem.seed?"),
        (GOOD + "resources: {cpus: 1e-320}\n", "g.yaml:8:13: resources.cpus: must be at least 0.0001, the smallest share that can be scheduled, not 9.99989e-321"),
        (GOOD + "resources: {gpus: 1e-320}\n", "g.yaml:8:13: resources.gpus: must be at least 0.0001, the smallest share that can be scheduled, not 9.99989e-321"),
        (GOOD + "figures: {a: {kind: medians, x: seed, y: error, width: 1_000_000}}\n", "g.yaml:8:49: figures.a.width: must be at most 10000, not 1000000"),
        (GOOD + "claims: {a: {kind: monotone, of: error, along: ';', direction: rising}}\n", "g.yaml:8:41: claims.a.along: ';' has a ';' at character 1, which is not understood"),
        (GOOD + "claims: {a: {kind: within, of: error, range: [0, 1], by: 'seed seed'}}\n", "g.yaml:8:54: claims.a.by: 'seed seed' is not an expression such as abs(det) > 1e-3: look for a missing operator or bracket"),
        (GOOD + "claims: {a: {kind: bound, that: '[error, 1] == 1'}}\n", "g.yaml:8:27: claims.a.that: '[error, 1] == 1' compares a list: lists come last, and after in, such as factorization.depth in [2, 3]"),
        (GOOD + "claims: {a: {kind: bound, that: 'error in [1, 2] < 3'}}\n", "g.yaml:8:27: claims.a.that: 'error in [1, 2] < 3' compares a list: lists come last, and after in, such as factorization.depth in [2, 3]"),
        (GOOD + "seeds: 9..0\n", "g.yaml:8:1: seeds: '9..0' must rise, to 1,000,000 values at most: both ends are meant"),
        (GOOD + "seeds: 0..9999999\n", "g.yaml:8:1: seeds: '0..9999999' must rise, to 1,000,000 values at most: both ends are meant"),
        (GOOD + "seeds: few\n", "g.yaml:8:1: seeds: must be a whole number of at least 1, a list of seeds or a range such as 0..9, not 'few'"),
        (GOOD + "grid: {optimizer.lr: {logspace: [1, 2]}}\n", "g.yaml:8:8: optimizer.lr: logspace needs the first number, the last and how many, such as [1e-5, 1e-1, 5], not [1, 2]"),
        (GOOD + "grid: {optimizer.lr: {logspace: [0, 2, 3]}}\n", "g.yaml:8:8: optimizer.lr: logspace needs numbers above 0"),
        (GOOD + "grid: {optimizer.lr: {linspace: [0, 2, 10_000_000]}}\n", "g.yaml:8:8: optimizer.lr: linspace makes 1,000,000 values at most, between numbers whose difference floating point can hold"),
        (GOOD + "cases: [{optimizer.lr: 0.2, grid: {optimizer.lr: [0.1]}}]\n", "g.yaml:8:51: optimizer.lr: is set by the case already: one axis sets a key"),
        (GOOD + "cases: [{grid: {optimizer.lr: [0.1, 0.2]}}]\ngrid: {optimizer.lr: [0.3, 0.4]}\n", "g.yaml:9:28: optimizer.lr: is set by cases already: one axis sets a key"),
        (GOOD + "cases: [{grid: {optimizer.lrr: [0.1]}}]\n", "g.yaml:8:33: optimizer.lrr: unknown key; did you mean lr?"),
        (GOOD + "cases: [{grid: {seed: 0..9999, problem.seed: 0..999}}]\n", "g.yaml:8:9: cases: has 10,000,000 points, more than the 1,000,000 trials that a grid may have"),
        (GOOD + f"claims: {{a: {{kind: bound, that: 'error < {'9' * 400}'}}}}\n", f"g.yaml:8:27: claims.a.that: 'error < {'9' * 48}... has a number of more than 100 digits"),
        (GOOD + "claims: {a: {kind: bound, that: \"outcome == '\\\\d'\"}}\n", "g.yaml:8:27: claims.a.that: \"outcome == '\\\\d'\" has a \"'\" at character 12, which is not understood"),
    ],
)  # fmt: skip
def test_message(text, message):
    assert errors(text) == [message]


def test_what_a_solver_has_no_use_for():
    text = (
        GOOD.replace("{kind: deep_matrix, depth: 2}", "{kind: nuclear_norm}").replace("{steps: 10}", "{steps: 10, loss: 1e-3}")
        + "  dtype: float32\n"
    )
    aside = ": where it is set for other trials, null takes it away"
    assert errors(text) == [
        f"g.yaml:5:10: init: has no effect with factorization.kind nuclear_norm, which starts from zero{aside}",
        f"g.yaml:6:15: optimizer: has no effect with factorization.kind nuclear_norm, which is solved{aside}",
        f"g.yaml:7:21: stop.loss: has no effect with factorization.kind nuclear_norm, which ends when it is solved{aside}",
        "g.yaml:8:3: dtype: must be float64 with factorization.kind nuclear_norm, which is solved to more digits than float32 has",
    ]
    tensor = text.replace("matrix_completion, shape: [3, 3]", "tensor_completion, shape: [3, 3, 2]")
    assert any("nuclear_norm is for matrices, but shape is [3, 3, 2]: use min_frobenius or linear" in line for line in errors(tensor))


def test_an_optimizer_is_missing_where_there_is_training():
    assert errors(GOOD.replace("  optimizer: {kind: gd, lr: 0.1}\n", "")) == [
        "g.yaml:2:1: optimizer: is missing: put it under fixed, cases or an axis"
    ]
    (slip,) = errors(GOOD.replace("  optimizer:", "  optimiser:"))
    assert "did you mean optimizer?" in slip


def test_all_mistakes_come_at_once_in_the_order_of_the_file():
    text = (
        swapped("depth: 2", "depth: 0").replace("lr: 0.1", "lr: -1").replace("rank: 1", "rank: 9")
        + "record: {measures: [nope]}\nextra: 1\n"
    )
    found = errors(text)
    assert [line.split(": ")[1] for line in found] == ["factorization.depth", "optimizer.lr", "extra"]
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == sorted(lines)


def test_a_mistake_in_an_axis_value_is_shown_at_that_value_once():
    text = GOOD + "grid:\n  optimizer.lr: [0.1, -1.0, 0.2]\nseeds: 50\n"
    assert errors(text) == ["g.yaml:9:23: optimizer.lr: must be above 0.0, not -1.0"]


def test_questions_know_the_keys_of_losses_that_only_later_trials_have():
    text = GOOD + "cases: [{loss: half_sse}, {loss: {kind: huber, delta: 0.1}}, {loss: {kind: huber, delta: 0.2}}]\n"
    text += "figures: {a: {kind: medians, x: loss.delta, y: error}}\n"
    text += "claims: {b: {kind: monotone, of: error, along: loss.delta, direction: rising}}\n"
    assert len(parse_grid(text).trials) == 3


def test_a_conflict_between_sections_is_shown_where_the_case_made_it():
    text = GOOD + "cases:\n  - {problem.observed: 4}\n  - {problem.observed: 12}\n"
    assert errors(text) == ["g.yaml:10:6: problem.observed: is 12, but shape [3, 3] has only 9 entries"]


def test_alias_bomb_is_refused_quickly():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    (message,) = errors(bomb)
    assert "expands to more than 1,000,000 values" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr", "--set optimizer.lr: must be key=value, such as optimizer.lr=1e-3"),
        ("optimizer.lrr=3", "--set optimizer.lrr: optimizer.lrr: unknown key; did you mean lr?"),
        ("optimizer.lr=fast", "--set optimizer.lr: optimizer.lr: must be a number, not 'fast'"),
        ("optimzer.lr=3", "--set optimzer.lr: optimzer.lr: unknown key; did you mean optimizer?"),
        ("figures.a.y=error", "--set figures.a.y: figures.a.y: is part of figures, which is set as a whole: --set 'figures=...'"),
        ("seeds=0", "--set seeds: seeds: must be a whole number of at least 1, a list of seeds or a range such as 0..9, not 0"),
        ("name=3", "--set name: name: must be text, not 3"),
        ("record.point=3", "--set record.point: record.point: unknown key; did you mean points?"),
        ("record={points: x}", "--set record: record.points: must be a whole number, not 'x'"),
        ("record.measures=[determ]", "--set record.measures: record.measures: unknown measure 'determ'; did you mean det?"),
        ("exclude=[{optimizer.lr: 7}]", "--set exclude: exclude: leaves out nothing: no trial has {'optimizer.lr': 7}"),
        ("problem.target={frobenius: 2}", "--set problem.target: problem.target.rank: is missing"),
    ],
)
def test_overrides_are_checked_too(override, message):
    assert errors(GOOD, [override]) == [message]


def test_an_override_that_makes_trials_the_same_is_what_is_blamed():
    cases = "cases:\n  - {factorization.depth: 2, optimizer.lr: 0.1}\n  - {factorization.depth: 3, optimizer.lr: 0.1}\n"
    text = GOOD + cases + "grid: {init.balanced: [false, true]}\n"
    same = "points 1 and 3 of the grid are the same trial"
    assert errors(text, ["factorization.depth=4"]) == [
        f"--set factorization.depth: factorization.depth: {same}: it was this key that told them apart in cases; with --set cases=null beside it there are none"
    ]
    assert len(parse_grid(text, overrides=["factorization.depth=4", "cases=null"]).trials) == 2
    # What an axis says twice is its own fault.
    assert errors(text.replace("depth: 3", "depth: 2"), ["init.scale=1"]) == [
        f"g.yaml:10:6: factorization.depth: {same}: every value of an axis has to make a difference"
    ]


def test_what_an_override_lists_twice_is_its_own_fault():
    cases = "cases:\n  - {factorization.depth: 2, grid: {optimizer.lr: [0.1, 0.2]}}\n  - {factorization.depth: 3, optimizer.lr: 0.1}\n"
    outside = "cases:\n  - {factorization.depth: 2, optimizer.lr: 0.1}\n  - {factorization.depth: 3, optimizer.lr: 0.1}\n"
    within = "cases:\n  - {factorization.depth: 2, grid: {optimizer.lr: [0.1, 0.2]}}\n"
    for text, override, value in [
        (GOOD + cases, "optimizer.lr=[0.3, 0.3]", "0.3"),
        (GOOD + outside, "optimizer.lr=[0.3, 0.3]", "0.3"),
        (GOOD + outside, "init=[{kind: gaussian, scale: 1}, {kind: gaussian, scale: 1}]", "{'init.kind': 'gaussian', 'init.scale': 1}"),
        (GOOD.replace("lr: 0.1", "lr: 0.1, clip: 1") + within, "optimizer.lr=[0.3, 0.4, 0.3]", "0.3"),
    ]:
        key = override.partition("=")[0]
        message = f"lists {value} twice: every value of an axis has to make a difference"
        assert errors(text, [override]) == [f"--set {key}: {key}: {message}"]


@pytest.mark.parametrize("make", ["missing", "folder", "latin", "binary"])
def test_unreadable_files(tmp_path, make):
    path = tmp_path / "g.yaml"
    if make == "folder":
        path.mkdir()
    elif make == "latin":
        path.write_bytes("name: é".encode("latin-1"))
    elif make == "binary":
        path.write_bytes(b"name: \x00\x01")
    with pytest.raises(GridError) as caught:
        load_grid(path)
    (line,) = caught.value.mistakes
    assert line.startswith(str(path))
    assert {"missing": "No such file", "folder": "directory", "latin": "not UTF-8", "binary": "not valid YAML"}[make] in line


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"target": np.ones((3, 4))}, "d.npz: target has shape [3, 4], but problem.shape is [3, 3]"),
        ({"target": np.where(np.eye(3) > 0, np.nan, 1.0)}, "d.npz: target[0, 0] is not a finite number"),
        ({"tagret": np.ones((3, 3))}, "d.npz: unknown array 'tagret'; did you mean target?"),
        (
            {"indices": [[0, 3]], "values": [1.0]},
            "d.npz: indices[0]: index [0, 3] lies outside shape [3, 3] (whole numbers, counting from 0)",
        ),
        ({"indices": [[0, 1], [0, 1]], "values": [1.0, 2.0]}, "d.npz: indices[1]: entry [0, 1] is observed twice"),
        ({"indices": [[0, 1]], "values": [1.0, 2.0]}, "d.npz: values must have shape [1], one per observation, not [2]"),
        ({"indices": [[0, 1]]}, "d.npz: indices need values, or target to take them from"),
        ({"target": np.array([[object()]])}, "d.npz: holds Python objects, which are never loaded"),
        ({"target": np.array([["a"]])}, "d.npz: target must hold real numbers, not <U1"),
    ],
)
def test_data_files(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    text = swapped("target: {rank: 1}, observed: 5", "file: d.npz" + ("" if "indices" in arrays else ", observed: 5"))
    assert errors(text, folder=tmp_path) == [f"g.yaml:3:53: problem.file: {message}"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("i,j,value\n0,1,2.0\n0,5,1\n", "d.csv:3: index [0, 5] lies outside shape [3, 3] (whole numbers, counting from 0)"),
        ("0,1,2.0\n0,1,1\n", "d.csv:2: entry [0, 1] is observed twice"),
        ("0,1,2.0\n\n0,2\n", "d.csv:3: needs 2 indices and a value, not 2 columns"),
        ("0,1,x\n0,2,1\n", "d.csv:1: 'x' is not a finite number"),
        ("0,1,nan\n", "d.csv:1: 'nan' is not a finite number"),
        ("i,j,value\n", "d.csv: holds no rows of 2 indices and a value"),
    ],
)
def test_csv_files(tmp_path, content, message):
    (tmp_path / "d.csv").write_text(content)
    assert errors(swapped("target: {rank: 1}, observed: 5", "file: d.csv"), folder=tmp_path) == [f"g.yaml:3:53: problem.file: {message}"]


def test_missing_and_damaged_data_files(tmp_path):
    text = swapped("target: {rank: 1}, observed: 5", "file: d.npz, observed: 3")
    assert errors(text, folder=tmp_path) == ["g.yaml:3:53: problem.file: cannot read d.npz: No such file or directory"]
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 not an archive")
    assert errors(text, folder=tmp_path) == ["g.yaml:3:53: problem.file: d.npz: is not a readable .npz file"]


def test_observed_is_at_most_what_the_file_lists(tmp_path):
    np.savez(tmp_path / "d.npz", indices=[[0, 1]], values=[1.0])
    found = errors(swapped("target: {rank: 1}", "file: d.npz"), folder=tmp_path)
    assert found == ["g.yaml:3:66: problem.observed: is 5, but the file lists only 1 entries"]


def test_initial_factors_must_fit(tmp_path):
    np.savez(tmp_path / "w.npz", W1=np.eye(3), W2=np.ones((3, 2)))
    text = swapped("{kind: gaussian, scale: 0.1}", "{kind: file, file: w.npz}")
    assert errors(text, folder=tmp_path) == ["g.yaml:5:22: init.file: w.npz: W2 must have shape [3, 3], not [3, 2]"]
    np.savez(tmp_path / "w.npz", W1=np.eye(3))
    assert errors(text, folder=tmp_path) == ["g.yaml:5:22: init.file: w.npz: this factorization needs W1, W2, but the file holds W1"]


@pytest.mark.parametrize("measure", [f"entry_0_{'9' * 5000}", f"singular_values_{'9' * 5000}", f"rank_distance_{'9' * 5000}"])
def test_a_measure_with_an_index_of_thousands_of_digits_is_unknown(measure):
    (line,) = errors(GOOD + f"record: {{measures: [{measure}]}}\n")
    assert "record.measures: unknown measure" in line


def test_no_more_mistakes_are_looked_for_than_anybody_reads():
    keys = "".join(f"k{n}: 1\n" for n in range(20_000))
    axes = "grid: {" + ", ".join(f"problem.k{n}: [1]" for n in range(2000)) + "}\n"
    for text in (GOOD + keys, GOOD + axes, GOOD + f"cases: [{', '.join(f'{{k{n}: 1}}' for n in range(2000))}]\n"):
        found = errors(text)
        assert len(found) == 101
        assert found[-1] == "g.yaml: has more mistakes than these 100: mend them first"


def test_a_message_is_a_short_line_whatever_it_quotes():
    text = (
        GOOD
        + f"grid: {{? {'x' * 200} : 1}}\nfigures: {{a: {{kind: points, x: loss, y: 'loss + {'y' * 3000}'}}}}\nclaims: '{'z' * 100_000}'\n"
    )
    assert all(len(line) < 1200 for line in errors(text))


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize(("make", "reason"), [("pipe", "it is a pipe or a device"), ("endless", "it is a pipe or a device"), ("folder", "Is a directory"), ("huge", "it is larger than")])  # fmt: skip
def test_what_never_ends_is_not_read(tmp_path, make, reason, data):
    path = tmp_path / ("d.npz" if data else "g.yaml")
    match make:
        case "pipe":
            os.mkfifo(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "huge":
            path.touch()
            os.truncate(path, 5 << 30)
    text = swapped("target: {rank: 1}, observed: 5", "file: d.npz, observed: 3")
    if data:
        (line,) = errors(text, folder=tmp_path)
    else:
        with pytest.raises(GridError) as caught:
            load_grid(path)
        (line,) = caught.value.mistakes
    assert reason in line


def test_only_data_files_are_opened(tmp_path):
    for name, reason in (
        ("/etc/passwd", "data files are .npz or .csv"),
        ('"a\\0.npz"', "no file can have this name"),
        ("''", "data files are"),
    ):
        (line,) = errors(swapped("target: {rank: 1}, observed: 5", f"file: {name}, observed: 3"), folder=tmp_path)
        assert line.startswith("g.yaml:3:53: problem.file: ")
        assert reason in line


def test_data_files_in_a_bucket(monkeypatch):
    import fsspec

    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/bucket/d.csv", b"0,1,2.0\n1,2,1\n")
    text = swapped("target: {rank: 1}, observed: 5", "file: 'memory://bucket/d.csv'")
    grid = parse_grid(text, "g.yaml")
    (digest,) = grid.files.contents
    assert grid.files.names == {"memory://bucket/d.csv": digest}
    assert grid.trials[0].spec.problem.file.count == 2
    monkeypatch.setattr(data_files, "MAX_FILE", 10)
    for name, reason in (
        ("memory://bucket/d.csv", "cannot read memory://bucket/d.csv: it is larger than the 0 MiB allowed"),
        ("memory://bucket/e.csv", "cannot read memory://bucket/e.csv: there is no such object"),
        ("http://host/d.csv", "http://host/d.csv: a data file is a path, or a URL that begins with s3://, gs://"),
        ("s3://me:secret@bucket/d.csv", "s3://…: a URL must not hold credentials"),
    ):
        (line,) = errors(text.replace("memory://bucket/d.csv", name))
        assert line.startswith(f"g.yaml:3:53: problem.file: {reason}")
        assert "secret" not in line


def test_a_bucket_that_cannot_be_reached_is_no_mistake_of_the_grid(monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(*_, **__):
        raise PermissionError(13, "Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "info", refuse)
    with pytest.raises(StorageUnavailable, match=r"^cannot read memory://bucket/d.csv: Access Denied$"):
        parse_grid(swapped("target: {rank: 1}, observed: 5", "file: 'memory://bucket/d.csv'"), "g.yaml")


def test_what_one_optimizer_may_leave_out_another_may_not():
    text = GOOD.replace("  optimizer: {kind: gd, lr: 0.1}\n", "") + "grid: {optimizer: [{kind: adam, lr: 0.1}, {kind: adamw, lr: 0.1}]}\n"
    assert any("weight_decay" in line for line in errors(text))
