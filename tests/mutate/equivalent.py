"""Mutants that no test can find, with the reason: by file and the changed line, as `python -m tests.mutate` prints it."""

from __future__ import annotations

_REASONS: dict[str, list[tuple[str, str]]] = {
    "a part of no width is dealt nothing": [
        ("training/data/splits.py", "parts = {side: shares[side] for side in SIDES if shares[side] >= 0}"),
    ],
    "the sum of 1 forbids it too": [
        ("training/data/splits.py", "right = set(shares) == set(SIDES) and all(0 <= s <= 2 for s in shares.values())"),
    ],
    "the first of a longer list is the same": [
        ("training/data/splits.py", "return Counter((r.label, r.source) for r in records).most_common(2)[0][0]"),
        ("training/data/splits.py", "return Counter((r.label, r.source) for r in records).most_common(None)[0][0]"),
    ],
    "`strict` of zip: lengths that are equal by construction, or were compared before": [
        ("training/evaluation/metrics.py", "for value, column in zip(measure(None), drawn.T, ):"),
        ("training/evaluation/metrics.py", "for value, column in zip(measure(None), drawn.T, strict=False):"),
        ("training/evaluation/metrics.py", "for value, column in zip(measure(None), drawn.T, strict=None):"),
        ("training/evaluation/statistics.py", '"per_class": dict(zip(labels, figures[: len(labels)], )),'),
        ("training/evaluation/statistics.py", '"per_class": dict(zip(labels, figures[: len(labels)], strict=False)),'),
        ("training/evaluation/statistics.py", '"per_class": dict(zip(labels, figures[: len(labels)], strict=None)),'),
        (
            "training/pruning/apoz.py",
            "self.slices = {n: slice(e - m.out_channels, e) for (n, m), e in zip(self.convs.items(), ends, strict=None)}",
        ),
        (
            "training/pruning/apoz.py",
            "self.slices = {n: slice(e - m.out_channels, e) for (n, m), e in zip(self.convs.items(), ends, )}",
        ),
        (
            "training/pruning/apoz.py",
            "self.slices = {n: slice(e - m.out_channels, e) for (n, m), e in zip(self.convs.items(), ends, strict=False)}",
        ),
        ("training/pruning/apoz.py", "for b, o in zip(blank, known, strict=None):"),
        ("training/pruning/apoz.py", "for b, o in zip(blank, known, ):"),
        ("training/pruning/apoz.py", "for b, o in zip(blank, known, strict=False):"),
        ("training/pruning/apoz.py", 'given = {**dict(zip(("tensors", "dim"), args, strict=None)), **kwargs}'),
        ("training/pruning/apoz.py", 'given = {**dict(zip(("tensors", "dim"), args, )), **kwargs}'),
        ("cxr_edge/ops/preprocess.py", "boxes = [_inside(roi, p).as_tuple() for roi, p in zip(lungs, pixels, )]"),
        (
            "cxr_edge/ops/preprocess.py",
            "boxes = [_inside(roi, p).as_tuple() for roi, p in zip(lungs, pixels, strict=False)]",
        ),
        (
            "cxr_edge/ops/preprocess.py",
            "boxes = [_inside(roi, p).as_tuple() for roi, p in zip(lungs, pixels, strict=None)]",
        ),
        ("cxr_edge/ops/preprocess.py", "for i, (array, spec) in enumerate(zip(out, self.specs, )):"),
        ("cxr_edge/ops/preprocess.py", "for i, (array, spec) in enumerate(zip(out, self.specs, strict=False)):"),
        ("cxr_edge/ops/preprocess.py", "for i, (array, spec) in enumerate(zip(out, self.specs, strict=None)):"),
        ("training/data/splits.py", "for label, source in zip(labels, sources, ):"),
        ("training/data/splits.py", "for label, source in zip(labels, sources, strict=False):"),
        ("training/data/splits.py", "for label, source in zip(labels, sources, strict=None):"),
        ("training/data/splits.py", "for name, side in zip(names, sides, ):"),
        ("training/data/splits.py", "for name, side in zip(names, sides, strict=False):"),
        ("training/data/splits.py", "for name, side in zip(names, sides, strict=None):"),
    ],
    "only rounding gives more than 1": [
        (
            "training/data/splits.py",
            "2.0, math.sqrt(max(0.0, sum(n * n / (rows[a] * columns[b]) for (a, b), n in cells.items()) - 1) / freedom)",
        ),
    ],
    "the number of threads changes no result": [
        (
            "cxr_edge/ops/preprocess.py",
            "def __init__(self, specs: Sequence[PreprocessSpec], *, threads: int = 2) -> None:",
        ),
    ],
    "the core reads rows in any direction; the copy is for what it is not tested on": [
        ("cxr_edge/ops/preprocess.py", "if pixels.strides[1] == pixels.itemsize and pixels.strides[0] > 1:"),
        ("cxr_edge/ops/preprocess.py", "if pixels.strides[1] == pixels.itemsize and pixels.strides[0] >= 0:"),
        ("cxr_edge/ops/preprocess.py", "if pixels.strides[1] == pixels.itemsize and pixels.strides[1] > 0:"),
    ],
    "NumPy's other spellings of the same order": [
        ("cxr_edge/ops/preprocess.py", 'adjacent: GrayPixels = pixels.copy(order="c")'),
        ("cxr_edge/ops/preprocess.py", "adjacent: GrayPixels = pixels.copy(order=None)"),
    ],
    "a list of numbers becomes float64 anyway, here or in the binding": [
        ("cxr_edge/ops/combine.py", "array = np.asarray(values, dtype=None)"),
        ("cxr_edge/ops/combine.py", "array = np.asarray(values, )"),
        ("cxr_edge/ops/combine.py", "scaled = logits.astype(None) / temperature"),
    ],
    "a factor that all compared sums have": [
        (
            "csrc/include/cxr/combine_math.h",
            "for (int m = 0; m < c.members; ++m) sum += (factors ? factors[m] : 2.0) * scores[m * c.labels + label];",
        ),
    ],
    "labels before the winner have fewer votes; the read outside is for the sanitizers": [
        ("csrc/include/cxr/combine_math.h", "for (int k = winner - 1; k < c.labels; ++k) {"),
        ("csrc/include/cxr/combine_math.h", "for (int k = winner + 1; k <= c.labels; ++k) {"),
    ],
    "tensors on another device than the CPU, which tests do not have": [
        ("training/pruning/apoz.py", "self.device = None"),
        ("training/pruning/apoz.py", "self.device = next((p.device for p in network.parameters()), None)"),
        ("training/pruning/apoz.py", "self.device = next((p.device for p in network.parameters()), )"),
        ("training/pruning/apoz.py", "self.zeros = torch.zeros(self.no_origin + 1, dtype=torch.int64, device=None)"),
        ("training/pruning/apoz.py", "self.zeros = torch.zeros(self.no_origin + 1, dtype=torch.int64, )"),
        ("training/pruning/apoz.py", "network(batch.to(None))"),
        ("training/pruning/apoz.py", "return torch.arange(channels.start, channels.stop, device=None)[None]"),
        ("training/pruning/apoz.py", "return torch.arange(channels.start, channels.stop, )[None]"),
        (
            "training/pruning/apoz.py",
            "blank = [torch.full((rows, p.shape[1]), no_origin, device=None) for p in parts]",
        ),
        ("training/pruning/apoz.py", "blank = [torch.full((rows, p.shape[1]), no_origin, ) for p in parts]"),
    ],
    "only whether it is 0 is read": [
        ("training/pruning/apoz.py", "self.counts.gated[origins.flatten()] = 2"),
        ("training/pruning/apoz.py", "self.images -= batch.shape[0]"),
    ],
    "more room for channels without a convolution, which nobody reads": [
        ("training/pruning/apoz.py", "self.no_origin = ends[-1] if ends else 1"),
        (
            "training/pruning/apoz.py",
            "self.zeros = torch.zeros(self.no_origin + 2, dtype=torch.int64, device=self.device)",
        ),
        ("training/pruning/apoz.py", "rows = max(o.shape[1] for o in known if o is not None)"),
    ],
    "every function that torch calls has a name; other values have no origins": [
        ("training/pruning/apoz.py", 'name, kwargs = getattr(func, "__name__", None).rstrip("_"), kwargs or {}'),
        ("training/pruning/apoz.py", 'name, kwargs = getattr(func, "__name__", ).rstrip("_"), kwargs or {}'),
        (
            "training/pruning/apoz.py",
            "return getattr(value, _ORIGINS, None) if (isinstance(value, Tensor)) or True else None",
        ),
    ],
    "no difference of two probabilities is exactly the limit of a tie": [
        (
            "cxr_edge/compiler/parity.py",
            "agreement = (((reference >= thresholds) == (candidate >= thresholds)) | (shift < ties)).mean(axis=0)",
        ),
        ("cxr_edge/compiler/parity.py", "agreement = float((same | (shift < TIE)).mean())"),
    ],
    "both are None or neither: the labels are the same": [
        (
            "cxr_edge/compiler/parity.py",
            "return (None, None) if before is None and after is None else (after - before, against)",
        ),
    ],
    "boxes apart share less than any limit; overlaps are not exactly the limit": [
        (
            "cxr_edge/compiler/parity.py",
            "return (failed_a is None) == (failed_b is None) and _box_iou(box_a, box_b) > SAME_BOX_IOU",
        ),
        ("cxr_edge/compiler/parity.py", "both = max(width, 1) * max(height, 0)"),
        ("cxr_edge/compiler/parity.py", "both = max(width, 0) * max(height, 1)"),
    ],
    "within the rounding that the limit allows": [
        ("cxr_edge/compiler/parity.py", "if not value > limit - 1e-9:  # written so that NaN is too low"),
        ("cxr_edge/compiler/parity.py", "if not value < limit + 1e-9:  # written so that NaN is too high"),
    ],
    "the mask is a float32 array already, or compared as one": [
        (
            "cxr_edge/compiler/parity.py",
            "lung_box(mask.astype(None), width_px=size_px[0], height_px=size_px[1], rule=rule) for mask in (a, b)",
        ),
    ],
    "equal values: either is the answer": [
        ("csrc/include/cxr/pixel_math.h", "return b <= a ? b : a;"),
        ("csrc/include/cxr/pixel_math.h", "return a <= b ? b : a;"),
    ],
    "the softmax after the logarithm drops a common factor": [
        (
            "csrc/include/cxr/combine_math.h",
            "for (int m = 0; m < c.members; ++m) sum += 2.0 / c.members * scores[m * c.labels + label];",
        ),
        (
            "csrc/include/cxr/combine_math.h",
            "for (int m = 0; m < c.members; ++m) sum += 1.0 * c.members * scores[m * c.labels + label];",
        ),
    ],
    "no tensor has a value that is not a number": [
        (
            "csrc/include/cxr/pixel_math.h",
            "if (magnitude >= 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);",
        ),
        ("csrc/include/cxr/pixel_math.h", "if (magnitude > 0x7f800001u) return static_cast<uint16_t>(sign | 0x7e00u);"),
        ("csrc/include/cxr/pixel_math.h", "if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign & 0x7e00u);"),
        ("csrc/include/cxr/pixel_math.h", "if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e01u);"),
    ],
    "65520 itself is rounded to infinity below, too": [
        ("csrc/include/cxr/pixel_math.h", "if (magnitude > 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);"),
        (
            "csrc/include/cxr/pixel_math.h",
            "if (magnitude >= 0x477ff001u) return static_cast<uint16_t>(sign | 0x7c00u);",
        ),
    ],
    "the softmax drops a number that is added to every label": [
        ("csrc/combine_kernels.h", "double sum = 1.0;"),
    ],
    "a ratio of counts": [
        ("training/data/splits.py", "by_source[source][label] += 2"),
    ],
    "without a dimension the channels are not joined, as with 0": [
        ("training/pruning/apoz.py", 'parts, dim = given["tensors"], given.get("dim", given.get("axis", None))'),
        ("training/pruning/apoz.py", 'parts, dim = given["tensors"], given.get("dim", given.get("axis", ))'),
    ],
    "more figures than are read": [
        (
            "training/evaluation/statistics.py",
            "blocks = [found[i * (count + 2) : (i + 1) * (count + 2)] for i in range(5)]",
        ),
        (
            "training/evaluation/statistics.py",
            "blocks = [found[i * (count + 2) : (i + 1) * (count + 3)] for i in range(4)]",
        ),
        (
            "training/evaluation/statistics.py",
            "blocks = [found[i * (count + 2) : (i + 2) * (count + 2)] for i in range(4)]",
        ),
        ("training/evaluation/statistics.py", "return [unknown_figure(0)] * (4 * (count + 2) + 3)"),
        ("training/evaluation/statistics.py", "return [unknown_figure(0)] * (4 * (count + 3) + 2)"),
        ("training/evaluation/statistics.py", "return [unknown_figure(0)] * (5 * (count + 2) + 2)"),
    ],
    "arrays of that type already": [
        (
            "training/evaluation/metrics.py",
            "bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS + 1)",
        ),
        (
            "training/evaluation/metrics.py",
            "bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 2)",
        ),
        (
            "training/evaluation/metrics.py",
            "times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), draws.resamples).astype(None)",
        ),
        ("training/evaluation/statistics.py", "areas, covariance = _delong(np.asarray(scores, )[None], positive)"),
        ("training/evaluation/statistics.py", "areas, covariance = _delong(np.asarray(scores, None)[None], positive)"),
        (
            "training/evaluation/statistics.py",
            "areas, covariance = _delong(np.stack([scores_a, scores_b]).astype(None), positive)",
        ),
        ("training/evaluation/statistics.py", "positive = np.asarray(positive, )"),
        ("training/evaluation/statistics.py", "positive = np.asarray(positive, None)"),
        ("training/evaluation/statistics.py", "right_a, right_b = np.asarray(right_a, ), np.asarray(right_b, bool)"),
        (
            "training/evaluation/statistics.py",
            "right_a, right_b = np.asarray(right_a, None), np.asarray(right_b, bool)",
        ),
        ("training/evaluation/statistics.py", "right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, )"),
        (
            "training/evaluation/statistics.py",
            "right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, None)",
        ),
    ],
    "another spelling of the same number": [
        ("training/evaluation/statistics.py", 'return float("NAN")'),
        (
            "training/evaluation/statistics.py",
            'return float(np.average(p.true == p.predicted, weights=weights)) if len(p.true) else float("NAN")',
        ),
    ],
    "no value is exactly the limit": [
        (
            "training/evaluation/metrics.py",
            "hits = min(hits, float(n)) if hits <= n * (1 + 1e-12) else hits  # an AUC of 1 + 2e-16 is 1",
        ),
        (
            "training/evaluation/statistics.py",
            "if variance < np.finfo(float).eps:  # both rank all pairs equally, or differ by a constant",
        ),
        ("training/evaluation/statistics.py", "return 1.0 if abs(difference) <= np.sqrt(np.finfo(float).eps) else 0.0"),
    ],
    "the exact test reads b and c only, and is the default": [
        (
            "training/evaluation/statistics.py",
            "both, neither = int((right_a & right_b).sum()), int((right_a & ~right_b).sum())",
        ),
        (
            "training/evaluation/statistics.py",
            "both, neither = int((right_a & right_b).sum()), int((~right_a & right_b).sum())",
        ),
        (
            "training/evaluation/statistics.py",
            "both, neither = int((right_a & right_b).sum()), int((~right_a | ~right_b).sum())",
        ),
        (
            "training/evaluation/statistics.py",
            "both, neither = int((right_a | right_b).sum()), int((~right_a & ~right_b).sum())",
        ),
        (
            "training/evaluation/statistics.py",
            "return McNemar(b=b, c=c, p=float(_mcnemar([[both, b], [c, neither]], ).pvalue))",
        ),
    ],
    "what is not written is NaN or not read": [
        (
            "training/evaluation/statistics.py",
            "macro = np.divide(filled.sum(1), valid.sum(1), out=None, where=valid.any(1))",
        ),
        (
            "training/evaluation/statistics.py",
            "weighted = np.divide((filled * weights).sum(1), weights.sum(1), out=None, where=weights.sum(1) > 0)",
        ),
    ],
    "a covariance has no sign and no constant of one of its terms": [
        (
            "training/evaluation/statistics.py",
            "of_misses = 1 + (every[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / hits",
        ),
        (
            "training/evaluation/statistics.py",
            "of_misses = 2 - (every[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / hits",
        ),
    ],
    "statsmodels clips and takes 95 % by itself": [
        (
            "training/evaluation/metrics.py",
            "low, high = np.clip(proportion_confint(hits, n, alpha=1 - LEVEL, method=method), 0, 2)",
        ),
        (
            "training/evaluation/metrics.py",
            "low, high = np.clip(proportion_confint(hits, n, alpha=1 - LEVEL, method=method), 0, None)",
        ),
        (
            "training/evaluation/metrics.py",
            "low, high = np.clip(proportion_confint(hits, n, alpha=1 - LEVEL, method=method), None, 1)",
        ),
        ("training/evaluation/metrics.py", "low, high = np.clip(proportion_confint(hits, n, method=method), 0, 1)"),
    ],
    "of whole counts, a spread above 0 is above 1": [
        (
            "training/evaluation/metrics.py",
            "return float((np.trace(table) * total - true @ predicted) / np.sqrt(spread)) if spread > 1 else 0.0",
        ),
    ],
    "as many bins as there are confidences for": [
        ("training/evaluation/metrics.py", "gaps = np.bincount(bins, correct - confidence, )"),
    ],
    "more blocks or threads, or the same step twice, compute the same": [
        ("csrc/combine_kernels.h", "for_each_index(block, 2, [&](int) { *winner = vote(c, scores, result); });"),
        ("csrc/combine_kernels.h", "static constexpr int kThreads = 129;"),
        ("csrc/combine_kernels.h", "static Grid grid(const CombineTask&) { return {2, 1, 1}; }"),
        ("csrc/combine_kernels.h", "static Grid grid(const CombineTask&) { return {1, 2, 1}; }"),
        ("csrc/combine_kernels.h", "static Grid grid(const CombineTask&) { return {1, 1, 2}; }"),
    ],
    "both formulas are the same for the smallest normal number": [
        ("csrc/include/cxr/pixel_math.h", "const int shift = exponent > 1 ? 13 : 14 - exponent;"),
        (
            "csrc/include/cxr/pixel_math.h",
            "const uint32_t mantissa = exponent > 1 ? magnitude - (112u << 23) : (magnitude & 0x7fffffu) | 0x800000u;",
        ),
    ],
    "one float32 of all, and no tensor has it": [
        ("csrc/include/cxr/pixel_math.h", "if (magnitude <= 0x33000001u) return static_cast<uint16_t>(sign);"),
        ("csrc/include/cxr/pixel_math.h", "if (magnitude < 0x33000002u) return static_cast<uint16_t>(sign);"),
    ],
    "images are at most 65535 px long in Python": [
        ("csrc/include/cxr/resize_plan.h", "constexpr int kMaxAxisLength = 65538;"),
    ],
    "position 0 is the first pixel with its full weight either way": [
        ("csrc/include/cxr/resize_plan.h", "if (position < 0) return {0, 1, static_cast<uint32_t>(norm), 0u, 0u};"),
    ],
    "a second input of weight 0, or a weight between inputs where there are two at most": [
        ("csrc/include/cxr/resize_plan.h", "if (position <= 0) return {0, 2, static_cast<uint32_t>(norm), 0u, 0u};"),
        ("csrc/include/cxr/resize_plan.h", "if (position <= 0) return {0, 1, static_cast<uint32_t>(norm), 1u, 0u};"),
        (
            "csrc/include/cxr/resize_plan.h",
            "if (start >= in - 1) return {static_cast<int>(in - 1), 2, static_cast<uint32_t>(norm), 0u, 0u};",
        ),
        (
            "csrc/include/cxr/resize_plan.h",
            "if (start >= in - 1) return {static_cast<int>(in - 1), 1, static_cast<uint32_t>(norm), 1u, 0u};",
        ),
        (
            "csrc/include/cxr/resize_plan.h",
            "if (rest == 0) return {static_cast<int>(start), 2, static_cast<uint32_t>(norm), 0u, 0u};",
        ),
        (
            "csrc/include/cxr/resize_plan.h",
            "if (rest == 0) return {static_cast<int>(start), 1, static_cast<uint32_t>(norm), 1u, 0u};",
        ),
        (
            "csrc/include/cxr/resize_plan.h",
            "return {static_cast<int>(start), 2, static_cast<uint32_t>(norm - rest), 1u, static_cast<uint32_t>(rest)};",
        ),
    ],
    "overwritten before it is read": [
        ("csrc/include/cxr/resize_plan.h", "uint64_t norm = 2;"),
    ],
    "no strategy's array needs this length": [
        ("csrc/combine.cc", "return 1;"),
        ("csrc/combine.cc", "return 2;"),
    ],
    "one element too many, which is for the sanitizers": [
        ("csrc/combine.cc", "for (int i = 0; i <= kMaxParameters; ++i) view.parameters[i] = values + offsets_[i];"),
        ("csrc/include/cxr/combine_math.h", "for (int k = 0; k <= c.labels; ++k) shares[k] /= c.members;"),
        ("csrc/include/cxr/combine_math.h", "for (int k = 0; k <= c.labels; ++k) shares[k] = 0.0;"),
    ],
    "a block of two threads on one: each does its share in turn": [
        ("csrc/combine.cc", "const ThreadBlock single{2, nullptr};"),
    ],
}

EQUIVALENT = {mutant: reason for reason, mutants in _REASONS.items() for mutant in mutants}
