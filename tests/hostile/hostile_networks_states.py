"""Recurrent layers, experts, embeddings, and buffers that change."""

from __future__ import annotations

import torch
from hostile_cases import B, call, lengths, network, real, traced, trained, untraced, used, whole
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

X = real(B, 6)
SEQUENCE = real(B, 5, 6)
IMAGE = real(B, 3, 6, 6)


def state(name, *calls, example, **options):
    return network(f"states: {name}", example, *calls, **options)


class Recurrent(nn.Module):
    """Linear layers around a recurrent one."""

    def __init__(self, kind, **options):
        super().__init__()
        self.a, self.rnn = nn.Linear(6, 8), kind(8, 10, batch_first=True, **options)
        width = (options.get("proj_size") or 10) * (2 if options.get("bidirectional") else 1)
        self.b, self.head = nn.Linear(width, 8), nn.Linear(8, 3)

    def forward(self, x, start=None):
        y, _ = self.rnn(torch.relu(self.a(x)), start)
        return self.head(torch.relu(self.b(y[:, -1])))


def recurrent(name, kind, *calls, **options):
    @state(name, call(real(B, 9, 6)), trained(SEQUENCE), *calls, example=call(SEQUENCE), prunes=["b"])
    def build():
        return Recurrent(kind, **options)


recurrent("LSTM", nn.LSTM, call(SEQUENCE, (real(1, 2, 10), real(1, 2, 10))))
recurrent("LSTM, two layers, both directions", nn.LSTM, num_layers=2, bidirectional=True)
recurrent("LSTM with projections", nn.LSTM, proj_size=4)
recurrent("GRU", nn.GRU, call(SEQUENCE, real(1, 2, 10)))
recurrent("GRU, two layers", nn.GRU, num_layers=2, bias=False)
recurrent("RNN", nn.RNN)
recurrent("RNN with relu, both directions", nn.RNN, nonlinearity="relu", bidirectional=True)


@state("GRU gives its last state out", call(real(B, 3, 6)), example=call(SEQUENCE), prunes=["a"])
class LastState(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.rnn, self.head = (
            nn.Linear(6, 8),
            nn.Linear(8, 8),
            nn.GRU(8, 10, batch_first=True),
            nn.Linear(10, 3),
        )

    def forward(self, x):
        y, last = self.rnn(torch.relu(self.b(torch.relu(self.a(x)))))
        return self.head(y), last


@state(
    "LSTM on packed sequences",
    call(SEQUENCE, torch.tensor([2, 5])),
    batches=False,
    may_refuse=True,
    example=call(SEQUENCE, torch.tensor([3, 5])),
)
class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.rnn, self.head = nn.Linear(6, 8), nn.LSTM(8, 10, batch_first=True), nn.Linear(10, 3)

    def forward(self, x, length):
        packed = pack_padded_sequence(torch.relu(self.a(x)), length, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(y.sum(1))


@state("LSTM cell in a loop", call(real(B, 3, 6)), call(real(B, 8, 6)), example=call(SEQUENCE), prunes=["a"])
class CellLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.cell, self.head = nn.Linear(6, 8), nn.LSTMCell(8, 10), nn.Linear(10, 3)

    def forward(self, x):
        h = c = x.new_zeros(len(x), self.cell.hidden_size)
        for t in range(x.shape[1]):
            h, c = self.cell(torch.relu(self.a(x[:, t])), (h, c))
        return self.head(h)


@state("GRU written by hand", call(real(B, 3, 6)), call(real(B, 8, 6)), example=call(SEQUENCE))
class HandGru(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.x, self.h, self.head = nn.Linear(6, 8), nn.Linear(8, 30), nn.Linear(10, 30), nn.Linear(10, 3)

    def forward(self, x):
        h = torch.zeros(x.size(0), 10, dtype=x.dtype)
        for step in torch.relu(self.a(x)).unbind(1):
            xr, xz, xn = self.x(step).chunk(3, -1)
            hr, hz, hn = self.h(h).chunk(3, -1)
            n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
            z = torch.sigmoid(xz + hz)
            h = (1 - z) * n + z * h
        return self.head(h)


@state(
    "recurrence with its own hidden state, given and returned",
    traced(SEQUENCE, real(B, 8)),
    call(real(B, 3, 6)),
    example=call(SEQUENCE),
    locked={"u": ""},
    prunes=["a"],
)
class StateInOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.w, self.u, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x, h=None):
        h = x.new_zeros(x.shape[0], 8) if h is None else h
        for t in range(x.shape[1]):
            h = torch.tanh(self.w(torch.relu(self.a(x[:, t]))) + self.u(h))
        return self.head(h), h


@state("state space scan with a diagonal matrix", call(real(B, 3, 6)), call(real(B, 8, 6)), example=call(SEQUENCE))
class DiagonalScan(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.decay, self.head = nn.Linear(6, 8), nn.Parameter(torch.randn(8)), nn.Linear(8, 3)

    def forward(self, x):
        u, rate, h, out = self.a(x), torch.sigmoid(self.decay), 0, []
        for t in range(u.shape[1]):
            h = rate * h + (1 - rate) * u[:, t]
            out.append(h)
        return self.head(torch.stack(out, 1))


@state("Mamba-like selective scan", call(real(B, 3, 6)), example=call(SEQUENCE))
class Selective(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.conv = nn.Linear(6, 16), nn.Conv1d(8, 8, 3, padding=2, groups=8)
        self.params, self.dt, self.out = nn.Linear(8, 2 + 4 + 4, bias=False), nn.Linear(2, 8), nn.Linear(8, 3)
        self.log_a, self.d = nn.Parameter(torch.rand(8, 4)), nn.Parameter(torch.ones(8))

    def forward(self, x):
        b, n, _ = x.shape
        u, gate = self.inp(x).chunk(2, dim=-1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., :n].transpose(1, 2))
        dt, bm, cm = self.params(u).split([2, 4, 4], dim=-1)
        dt, a = F.softplus(self.dt(dt)), -torch.exp(self.log_a)
        h, ys = u.new_zeros(b, u.shape[-1], 4), []
        for t in range(n):
            h = torch.exp(dt[:, t, :, None] * a) * h + dt[:, t, :, None] * bm[:, t, None] * u[:, t, :, None]
            ys.append((h * cm[:, t, None]).sum(-1))
        return self.out((torch.stack(ys, 1) + u * self.d) * F.silu(gate))


# experts


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gate, self.head = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 8)) for _ in range(3))


@state("experts mixed by a softmax", call(real(7, 6)), example=call(X), prunes=["experts.0.0", "experts.2.0"])
class SoftExperts(Experts):
    def forward(self, x):
        x = torch.relu(self.a(x))
        weights = self.gate(x).softmax(-1)
        y = torch.stack([expert(x) for expert in self.experts], -1)
        return self.head((y * weights.unsqueeze(-2)).sum(-1))


@state("experts by gather of the best", call(real(7, 6)), example=call(X), prunes=["experts.0.0"])
class GatherExperts(Experts):
    def forward(self, x):
        x = torch.relu(self.a(x))
        weights, index = self.gate(x).softmax(-1).topk(2, dim=-1)
        y = torch.stack([expert(x) for expert in self.experts], 1)
        y = y.gather(1, index[..., None].expand(-1, -1, y.shape[-1]))
        return self.head((y * weights[..., None]).sum(1))


@state("experts by dense masks", call(real(7, 6)), example=call(X), prunes=["experts.0.0"])
class MaskExperts(Experts):
    def forward(self, x):
        x = torch.relu(self.a(x))
        best = self.gate(x).argmax(-1)
        y = sum(expert(x) * (best == i).unsqueeze(-1) for i, expert in enumerate(self.experts))
        return self.head(y)


@state("experts of chosen samples only", example=call(X), may_refuse=True)
class SparseExperts(Experts):
    """Every expert sees its samples only: on an example, some may see none."""

    def forward(self, x):
        x = torch.relu(self.a(x))
        best = self.gate(x).argmax(-1)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows = torch.where(best == i)[0]
            y = y.index_add(0, rows, expert(x[rows]))
        return self.head(y)


@state("experts in one weight tensor by bmm", call(real(7, 6)), example=call(X))
class StackedExperts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gate, self.head = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.w1, self.w2 = nn.Parameter(torch.randn(3, 8, 10) / 3), nn.Parameter(torch.randn(3, 10, 8) / 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        y = torch.bmm(torch.bmm(x.expand(3, -1, -1), self.w1).relu(), self.w2)
        return self.head(torch.einsum("ebd,be->bd", y, self.gate(x).softmax(-1)))


@state("expert weights picked per sample", call(real(7, 6)), example=call(X))
class PickedWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gate, self.head = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(10, 3)
        self.w = nn.Parameter(torch.randn(3, 8, 10) / 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        w = self.w[self.gate(x).argmax(-1)]
        return self.head(torch.bmm(x.unsqueeze(1), w).squeeze(1).relu())


# buffers


@state("running mean of its own", trained(X), example=call(X), stateful=True, prunes=["b"])
class RunningMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        h = torch.relu(self.a(x))
        self.mean.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        self.seen += 1
        return self.head(torch.relu(self.b(h - self.mean))) / self.seen


@state("buffer assigned anew in forward", example=call(X), stateful=True, prunes=["b"])
class AssignedBuffer(RunningMean):
    def forward(self, x):
        h = torch.relu(self.a(x))
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return self.head(torch.relu(self.b(h - self.mean)))


@state("attribute kept between calls", call(real(5, 6)), example=call(X), stateful=True)
class KeptAttribute(nn.Module):
    """What one call leaves, the next one reads."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3), None

    def forward(self, x):
        h = torch.relu(self.a(x))
        self.last = h.detach().mean(0)
        return self.head(torch.relu(self.b(h))) + 0 * self.last.sum()


@state("features kept for the user", example=call(X), stateful=True, may_refuse=True)
class KeptFeatures(KeptAttribute):
    def forward(self, x):
        h = torch.relu(self.a(x))
        self.features = {"a": h.detach()}
        return self.head(torch.relu(self.b(h)))


@state(
    "mask cached by the number of positions", call(real(B, 3, 6)), call(SEQUENCE), example=call(SEQUENCE), stateful=True
)
class CachedMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head, self.cache = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3), {}

    def forward(self, x):
        n = x.shape[1]
        if n not in self.cache:
            self.cache[n] = torch.ones(n, n, dtype=x.dtype).tril()
        return self.head(torch.relu(self.b(self.cache[n] @ torch.relu(self.a(x)))))


@state("positions cached by the width", example=call(SEQUENCE), stateful=True)
class CachedWidth(CachedMask):
    def forward(self, x):
        h = torch.relu(self.a(x))
        if h.shape[-1] not in self.cache:
            self.cache[h.shape[-1]] = torch.arange(h.shape[-1], dtype=x.dtype)
        return self.head(torch.relu(self.b(h + self.cache[h.shape[-1]])))


@state("codebook: nearest vector (VQ)", example=call(X), prunes=["b"])
class Codebook(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.codes = nn.Linear(6, 8), nn.Embedding(5, 8)
        self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        z = self.a(x)
        distance = z.pow(2).sum(1, keepdim=True) - 2 * z @ self.codes.weight.t() + self.codes.weight.pow(2).sum(1)
        q = self.codes(distance.argmin(1))
        return self.head(torch.relu(self.b(z + (q - z).detach())))


@state(
    "exponential moving average of another network",
    trained(X, may_refuse=True),
    example=call(X),
    compares_step=False,
    refused="trace it in training mode",
)
class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.teacher = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).requires_grad_(False)

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                for own, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                    own.lerp_(other.detach(), 0.1)
        return self.student(x), self.teacher(x)


# embeddings


@state("embedding bag with offsets", example=call(torch.tensor([1, 2, 4, 3]), torch.tensor([0, 2])), batches=False)
class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.a, self.head = nn.EmbeddingBag(6, 8, mode="mean"), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids, offsets):
        return self.head(torch.relu(self.a(self.bag(ids, offsets))))


@state(
    "embedding with padding index and largest norm",
    call(whole(6, B, 3)),
    example=call(whole(6, B, 5)),
    may_refuse=True,
    stateful=True,
)
class MaxNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.a, self.head = (
            nn.Embedding(6, 8, padding_idx=0, max_norm=1.0),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
        )

    def forward(self, ids):
        return self.head(torch.relu(self.a(self.table(ids))).mean(1))


@state("adaptive softmax as head", example=call(X), may_refuse=True)
class Adaptive(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(6, 8), nn.AdaptiveLogSoftmaxWithLoss(8, 10, [3, 6], div_value=2.0)

    def forward(self, x):
        return self.head.log_prob(torch.relu(self.a(x)))


@state("bilinear layer", call(X, real(B, 6)), example=call(X, real(B, 6)), prunes=["c"])
class BilinearLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.mix, self.c, self.head = (
            nn.Linear(6, 8),
            nn.Linear(6, 8),
            nn.Bilinear(8, 8, 6),
            nn.Linear(6, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x, y):
        return self.head(torch.relu(self.c(torch.relu(self.mix(torch.relu(self.a(x)), torch.relu(self.b(y)))))))


@state(
    "graph convolution by a dense adjacency matrix",
    call(real(B, 7, 6), real(B, 7, 7)),
    example=call(SEQUENCE, real(B, 5, 5)),
    prunes=["a"],
)
class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x, edges):
        edges = torch.eye(x.shape[1], dtype=x.dtype) + edges.abs()
        edges = edges / edges.sum(-1, keepdim=True)
        return self.head((edges @ self.b((edges @ self.a(x)).relu()).relu()).mean(1))


@state(
    "graph convolution by index_add over edges",
    call(real(7, 6), whole(7, 2, 12)),
    batches=False,
    example=call(real(5, 6), whole(5, 2, 9)),
    prunes=["b"],
)
class EdgeGraph(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x, edges):
        h = torch.relu(self.a(x))
        source, target = edges
        h = torch.zeros_like(h).index_add_(0, target, h[source])
        return self.head(torch.relu(self.b(h)).sum(0, keepdim=True))


@state("point cloud with neighbours by topk of distances", call(real(B, 9, 3)), example=call(real(B, 6, 3)))
class Points(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, p):
        index = torch.cdist(p, p).topk(3, largest=False).indices
        near = torch.gather(p.unsqueeze(1).expand(-1, p.shape[1], -1, -1), 2, index[..., None].expand(-1, -1, -1, 3))
        edge = torch.cat([p.unsqueeze(2).expand_as(near), near - p.unsqueeze(2)], -1)
        return self.head(torch.relu(self.b(torch.relu(self.a(edge)).amax(2))).amax(1))


@state("slots refined in a loop, normalised over slots", call(real(B, 9, 6)), example=call(SEQUENCE))
class Slots(nn.Module):
    def __init__(self):
        super().__init__()
        self.k, self.v, self.q = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 8)
        self.slots, self.update, self.head = nn.Parameter(torch.randn(3, 8)), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        k, v, s = self.k(x), self.v(x), self.slots.expand(len(x), -1, -1)
        for _ in range(2):
            weights = (k @ self.q(s).mT / k.shape[-1] ** 0.5).softmax(-1) + 1e-6
            s = s + self.update(torch.einsum("bns,bnd->bsd", weights / weights.sum(1, keepdim=True), v))
        return self.head(s)


@state(
    "flow: affine coupling with its inverse",
    used(lambda m, x: m(m(x), reverse=True), X, may_refuse=True),
    traced(X, reverse=True),
    example=call(X),
    prunes=["net.0"],
)
class Coupling(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6))

    def forward(self, x, reverse=False):
        a, b = x.chunk(2, 1)
        scale, shift = self.net(a).chunk(2, 1)
        b = (b - shift) * torch.exp(-scale) if reverse else b * torch.exp(scale) + shift
        return torch.cat([a, b], 1)


@state("variational: mean and noise", trained(X, random=True), example=call(X), prunes=["a", "b"])
class Variational(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.mu, self.log, self.b, self.head = (
            nn.Linear(6, 8),
            nn.Linear(8, 4),
            nn.Linear(8, 4),
            nn.Linear(4, 8),
            nn.Linear(8, 6),
        )

    def forward(self, x):
        h = torch.relu(self.a(x))
        mu, log = self.mu(h), self.log(h)
        z = mu + torch.randn_like(mu) * (log / 2).exp() if self.training else mu
        return self.head(torch.relu(self.b(z))), mu, log


@state("noise also in eval mode", example=call(X), prunes=["b"])
class NoiseAlways(nn.Module):
    """Random numbers drawn per unit: another width draws others; per sample they stay the same."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.head(torch.relu(self.b(h + torch.randn(len(x), 1, dtype=x.dtype))))


@state("noise per unit in eval mode", example=call(X), may_refuse=True)
class NoisePerUnit(NoiseAlways):
    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.head(torch.relu(self.b(h + torch.randn_like(h))))


@state("Q-values: value and advantage with the mean over actions", call(real(7, 6)), example=call(X), prunes=["a"])
class Dueling(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.value, self.advantage = nn.Linear(6, 8), nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x):
        h = torch.relu(self.a(x))
        advantage = self.advantage(h)
        return self.value(h) + advantage - advantage.mean(1, keepdim=True)


@state("Kolmogorov-Arnold layer: basis functions per input", call(real(7, 6)), example=call(X))
class SplineLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Parameter(torch.randn(6, 8, 4)), nn.Parameter(torch.randn(8, 3, 4))
        self.register_buffer("centres", torch.linspace(-1, 1, 4))

    def layer(self, x, c):
        return torch.einsum("bik,iok->bo", torch.exp(-((x.unsqueeze(-1) - self.centres) ** 2)), c)

    def forward(self, x):
        return self.layer(self.layer(x, self.c1), self.c2)


@state(
    "multi-task: a dict of heads picked by an argument",
    traced(X, task="two"),
    untraced(X, task="three"),
    example=call(X),
)
class Tasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8)
        self.heads = nn.ModuleDict({"one": nn.Linear(8, 3), "two": nn.Linear(8, 2), "three": nn.Linear(8, 4)})

    def forward(self, x, task="one"):
        return self.heads[task](torch.relu(self.b(torch.relu(self.a(x)))))


@state(
    "lengths of sequences pooled by hand",
    call(real(B, 8, 6), lengths(8, B)),
    example=call(SEQUENCE, lengths(5, B)),
    checks_with_example=True,
)
class LengthPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x, length):
        h = torch.relu(self.b(torch.relu(self.a(x))))
        last = h.gather(1, (length - 1)[:, None, None].expand(-1, 1, h.shape[2])).squeeze(1)
        hidden = torch.arange(h.shape[1]) >= length[:, None]
        return self.head(last + h.masked_fill(hidden[..., None], -1e9).amax(1))
