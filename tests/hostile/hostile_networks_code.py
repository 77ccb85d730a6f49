"""Ways to write a forward, and outputs that are more than one tensor."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from hostile_cases import B, call, network, padding, real, traced, trained, untraced, used
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

X = real(B, 6)
IMAGE = real(B, 3, 6, 6)
MORE = call(real(5, 6))


class Two(nn.Module):
    """Two hidden layers and a head."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def hidden(self, x):
        return torch.relu(self.b(torch.relu(self.a(x))))

    def forward(self, x):
        return self.head(self.hidden(x))


def code(name, *calls, example=None, **options):
    more = calls or (() if example else (MORE,))
    return network(f"code: {name}", example or call(X), *more, **options)


# several outputs


@code("tuple with hidden channels", locked={"b": "output"}, prunes=["a"])
class TupleOutput(Two):
    def forward(self, x):
        h = self.hidden(x)
        return self.head(h), h


@code("dict with hidden channels, nested", locked={"a": "output"}, prunes=["b"])
class DictOutput(Two):
    def forward(self, x):
        h = torch.relu(self.a(x))
        return {"logits": self.head(torch.relu(self.b(h))), "more": {"hidden": [h, (h * 2,)]}}


@dataclass
class Answer:
    logits: torch.Tensor
    features: torch.Tensor | None = None


@code("dataclass", locked={"b": "output"}, prunes=["a"])
class DataclassOutput(Two):
    def forward(self, x):
        h = self.hidden(x)
        return Answer(self.head(h), features=h)


Pair = namedtuple("Pair", ["logits", "hidden"])


@code("named tuple", locked={"b": "output"}, prunes=["a"])
class NamedOutput(Two):
    def forward(self, x):
        h = self.hidden(x)
        return Pair(self.head(h), h)


class Plain:
    """An object of no known kind."""

    def __init__(self, logits, inner):
        self.logits, self.inner = logits, inner


@code("object with objects inside", locked={"b": "output"}, prunes=["a"])
class ObjectOutput(Two):
    def forward(self, x):
        h = self.hidden(x)
        return Plain(self.head(h), {"again": Plain(h, None)})


@code("second output is a mean over hidden channels", prunes=["a"])
class MeanOutput(Two):
    def forward(self, x):
        h = self.hidden(x)
        return self.head(h), h.mean(1), h.pow(2).sum(1), h.abs().amax(1)


@code("second output is a penalty over weights", locked={"a": "reduced", "b": "reduced"})
class PenaltyOutput(Two):
    def forward(self, x):
        return self.head(self.hidden(x)), self.b.weight.pow(2).sum(), self.b.weight.pow(2).mean()


@code("second output is the width as a tensor", may_refuse=True)
class WidthOutput(Two):
    def forward(self, x):
        h = self.hidden(x)
        return self.head(h), torch.tensor(h.shape[1])


@code("second output is the share of active neurons", prunes=["a"])
class ActiveOutput(Two):
    def forward(self, x):
        h = self.hidden(x)
        return self.head(h), (h > 0).double().mean(1), (h > 0).any(1)


@code("second output is the index of the most active neuron", prunes=["a"])
class IndexOutput(Two):
    def forward(self, x):
        h = self.hidden(x)
        return self.head(h), h.argmax(1)


@code("outputs on demand: features=True", traced(X, features=True), untraced(X, features=True, scale=2.0))
class OnDemand(Two):
    def forward(self, x, features=False, scale=1.0):
        h = self.hidden(x)
        return (self.head(h) * scale, h) if features else self.head(h) * scale


@code("outputs on demand, never traced", untraced(X, features=True))
class OnDemandUntraced(OnDemand):
    pass


@code("forward_features of its own", used(lambda m, x: m.hidden(x).sum(1), X, may_refuse=True))
class OtherMethod(Two):
    """Another method is called by the user; it has no example."""


@code("loss when labels are given", traced(X, labels=real(B, 3)), MORE)
class WithLoss(Two):
    def forward(self, x, labels=None):
        logits = self.head(self.hidden(x))
        return {"loss": None if labels is None else F.mse_loss(logits, labels), "logits": logits}


# branches


@code("auxiliary head in training", trained(X), prunes=["a"])
class Auxiliary(Two):
    """The second head is never seen in eval mode."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.a(x))
        y = self.head(torch.relu(self.b(h)))
        return (y, self.aux(h)) if self.training else y


@code("auxiliary convolution with flatten in training", trained(IMAGE), example=call(IMAGE))
class AuxiliaryConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 3)
        self.aux = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))

    def forward(self, x):
        x = torch.relu(self.a(x))
        y = self.head(torch.relu(self.b(x)).mean((2, 3)))
        return (y, self.aux(x)) if self.training else y


@code("early exit by an argument", traced(X, depth=1), untraced(X, depth=0), MORE)
class EarlyExit(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(3))

    def forward(self, x, depth=2):
        x = torch.relu(self.stem(x))
        for layer in self.layers[:depth]:
            x = torch.relu(layer(x))
        return self.heads[depth](x)


@code("exit on confidence", refused="reads values")
class ConfidentExit(Two):
    def forward(self, x):
        h = torch.relu(self.a(x))
        if h.mean() > 0.3:
            return self.head(h)
        return self.head(torch.relu(self.b(h)))


@code("a value of an activation as a number", refused="reads values")
class ItemPeek(Two):
    def forward(self, x):
        h = self.hidden(x)
        return self.head(h / max(h.max().item(), 1.0))


@code("samples selected by a mask of activations", may_refuse=True)
class BooleanSelection(Two):
    def forward(self, x):
        h = self.hidden(x)
        return self.head(h[h.sum(1) > 0.1])


@code("activation as text", refused="reads values")
class TextPeek(Two):
    def forward(self, x):
        h = self.hidden(x)
        return self.head(h) * (1 if "nan" not in str(h.tolist()) else 0)


@code("activation through numpy", refused="numpy|reads values|fails")
class NumpyPeek(Two):
    def forward(self, x):
        h = self.hidden(x)
        return self.head(torch.from_numpy(h.detach().cpu().numpy() * 2))


@code("activation through numpy as a factor", refused="numpy|reads values")
class NumpyFactor(Two):
    def forward(self, x):
        h = self.hidden(x)
        return self.head(h) * float(abs(h.detach().numpy()).mean())


@code("weights looked at", prunes=["a"])
class WeightPeek(Two):
    """Values of parameters are no data, but pruning changes them: the branch must stay that of the masked network."""

    def forward(self, x):
        h = self.hidden(x)
        return self.head(h) * (2 if float(self.head.weight.detach().abs().sum()) > 1e6 else 1)


@code(
    "input mask looked at: all()",
    traced(X, padding(B, 6)),
    call(X, padding(B, 6)),
    example=call(X, torch.ones(2, 6).long()),
)
class MaskPeek(Two):
    def forward(self, x, attention_mask=None):
        if attention_mask is not None and not attention_mask.all():
            x = x * attention_mask
        return self.head(self.hidden(x))


@code(
    "input lengths looked at: max().item()",
    call(real(B, 5, 6), torch.tensor([2, 3])),
    example=call(real(B, 5, 6), torch.tensor([4, 3])),
    checks_with_example=True,
    batches=False,
)
class LengthPeek(Two):
    def forward(self, x, lengths):
        x = x[:, : int(lengths.max().item())]
        return self.head(self.hidden(x))


@code(
    "input labels selected by a boolean mask of inputs",
    call(real(B, 5, 6), torch.tensor([[1, 0, 1, 1, 0]] * 2) == 1),
    example=call(real(B, 5, 6), torch.tensor([[1, 1, 1, 0, 0]] * 2) == 1),
    batches=False,
)
class InputSelection(Two):
    def forward(self, x, keep):
        return self.head(self.hidden(x[keep]))


@code("assertion on the input", call(real(5, 6)))
class InputAssertion(Two):
    def forward(self, x):
        assert not torch.isnan(x).any(), "not a number"
        return self.head(self.hidden(x))


@code("input as a plain number", call(X, 2.5), call(X, k=3), untraced(X, -1.0), example=call(X, 1.5))
class NumberInput(Two):
    def forward(self, x, k=1.0):
        h = torch.relu(self.a(x)) * k
        return self.head(torch.relu(self.b(h)) + k)


@code("input as text: mode", traced(X, mode="mean"), untraced(X, mode="other"), MORE)
class ModeInput(Two):
    def forward(self, x, mode="sum"):
        h = self.hidden(x)
        return (
            self.head(h) if mode == "sum" else self.head(h - h.mean(1, keepdim=True) if mode == "mean" else h.flip(1))
        )


# spellings


class Parent(Two):
    def forward(self, x, *args, scale=1.0, **kwargs):
        return self.head(self.hidden(x)) * scale


@code("super().forward chain with *args, **kwargs", call(X, scale=3.0), call(X, "ignored", other=1))
class Child(Parent):
    def forward(self, x, *args, **kwargs):
        return super().forward(x * 2, *args, **kwargs) + 1


def logged(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        with torch.autocast("cpu", enabled=False):
            return function(self, *args, **kwargs)

    return wrapper


@code("decorated forward", MORE, call(X, gain=2.0))
class Decorated(Two):
    @logged
    def forward(self, x, gain=1.0):
        return self.head(self.hidden(x) * gain)


@code("forward decorated with no_grad in part", prunes=["a"], compares_step=True)
class PartlyFrozen(Two):
    def forward(self, x):
        with torch.no_grad():
            h = torch.relu(self.a(x))
        return self.head(torch.relu(self.b(h)))


@code("forward assigned to the instance")
class Assigned(Two):
    def __init__(self):
        super().__init__()
        self.forward = functools.partial(type(self).run, self)

    def run(self, x):
        return self.head(self.hidden(x))


@code("forward assigned as a closure over the network itself", refused="forward|copied|copy")
def monkeypatched():
    """A copy of this network still runs the original's layers."""
    model = Two()
    model.forward = lambda x: model.head(model.hidden(x) * 2)
    return model


@code("closure and comprehension", MORE)
class Closure(Two):
    def forward(self, x):
        width = self.a.out_features

        def scaled(t, by=0.5):
            return t * by

        parts = [scaled(torch.relu(self.a(x)), by=1 + 0.0 * width) for _ in range(2)]
        return self.head(torch.relu(self.b(sum(parts))))


@code("generator expression over named children")
class ByChildren(Two):
    def forward(self, x):
        children = dict(self.named_children())
        for key in ("a", "b"):
            x = children[key](x).relu()
        return getattr(self, "he" + "ad")(x)


@code("functional layers with weights of its own")
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8))
        self.w2, self.w3 = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(3, 8))

    def forward(self, x):
        x = F.linear(x, self.w1, self.b1).relu()
        return F.linear(torch.relu(x @ self.w2.T), self.w3)


@code("parameter matrices multiplied from the left, addmm, einsum")
class Multiplied(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w2, self.w3 = (nn.Parameter(torch.randn(*s)) for s in ((6, 8), (8, 8), (8, 3)))
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x):
        h = torch.addmm(self.bias, x, self.w1).relu()
        return torch.einsum("bi,ij->bj", (self.w2 @ h.T).T.relu(), self.w3)


@code("ParameterList and ParameterDict")
class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(8, 6), torch.randn(8, 8)])
        self.more = nn.ParameterDict({"head": torch.randn(3, 8), "gain": torch.ones(8)})

    def forward(self, x):
        for weight in self.weights:
            x = F.linear(x, weight).relu()
        return F.linear(x * self.more["gain"], self.more["head"])


@code("product of two weights computed in forward (low rank)")
class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.u, self.v, self.head = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(4, 6)), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(F.linear(x, self.u @ self.v).relu())


@code("adapter beside a layer (LoRA)", prunes=["a"])
class Lora(Two):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.head(torch.relu(self.b(h) + self.up(self.down(h)) * (4 / 2)))


@code("weights made by another network (hypernetwork)", prunes=["maker.0"])
class Hyper(nn.Module):
    def __init__(self):
        super().__init__()
        self.maker, self.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 48)), nn.Linear(8, 3)

    def forward(self, x):
        w = self.maker(x).view(len(x), 8, 6)
        return self.head(torch.bmm(w, x.unsqueeze(-1)).squeeze(-1).relu())


@code("tied embedding and output", example=call(padding(B, 5)))
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.mid = nn.Embedding(7, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 7, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids):
        return self.out(torch.relu(self.mid(self.table(ids))))


@code("autoencoder with transposed weights", prunes=["enc"])
class TiedAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(6, 8)

    def forward(self, x):
        return F.linear(torch.sigmoid(self.enc(x)), self.enc.weight.t())


@code("one parameter in two modules under two names")
class SharedParameter(Two):
    def __init__(self):
        super().__init__()
        self.c = nn.Linear(8, 8)
        self.c.weight = self.b.weight

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.head(torch.relu(self.b(h)) + torch.relu(self.c(h)))


@code("views of one parameter", refused="share memory")
class SharedMemory(Two):
    def __init__(self):
        super().__init__()
        self.c = nn.Linear(8, 8)
        self.c.weight = nn.Parameter(self.b.weight.data)

    def double(self):
        super().double()
        self.c.weight = nn.Parameter(self.b.weight.data)
        return self

    def forward(self, x):
        return self.head(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))))


@code("gradient checkpointing", trained(X))
class Checkpointed(Two):
    def forward(self, x):
        return self.head(checkpoint(self.hidden, x, use_reentrant=False))


@code("hooks change the outputs")
def hooked():
    model = Two()
    model.a.register_forward_hook(double_output)
    model.b.register_forward_pre_hook(halve_input)
    return model


def double_output(module, args, output):
    return output * 2


def halve_input(module, args):
    return (args[0] / 2,)


@code("a hook names sizes", compares_step=True)
def hooked_sizes():
    model = Two()
    model.a.register_forward_hook(over_width)
    return model


def over_width(module, args, output):
    return output / output.shape[-1]


@code("in-place operations everywhere")
class InPlace(Two):
    def forward(self, x):
        h = self.a(x).relu_() * 1.0
        h += 0.5
        h[:, 0] = 0.3
        h[:, 2:4] *= 2
        h.add_(0.1).neg_()
        return self.head(self.b(h).relu_())


@code("written into a fresh tensor by index")
class FreshTensor(Two):
    def forward(self, x):
        h = torch.relu(self.a(x))
        y = torch.zeros(len(x), 8, dtype=x.dtype)
        for i in range(8):
            y[:, i] = h[:, i] * (i + 1)
        return self.head(torch.relu(self.b(y)))


@code("unrolled over channels by unbind and stack")
class Unrolled(Two):
    def forward(self, x):
        h = torch.relu(self.a(x))
        h = torch.stack([c * (1 + i % 2) for i, c in enumerate(h.unbind(1))], 1)
        return self.head(torch.relu(self.b(h)))


@code("vmap over samples", may_refuse=True)
class Vmapped(Two):
    def forward(self, x):
        return torch.vmap(lambda t: self.head(torch.relu(self.b(torch.relu(self.a(t))))))(x)


@code("gradient with respect to the input within forward", refused="")
class InnerGradient(Two):
    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.hidden(x).sum()
            return torch.autograd.grad(energy, x, create_graph=self.training)[0]


@code("autograd function of a user's own", prunes=["b"])
class CustomFunction(Two):
    class Straight(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return (x > 0).to(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    def forward(self, x):
        return self.head(torch.relu(self.b(self.Straight.apply(self.a(x)))))


@code("half precision inside", limit=5e-3, compares_step=False)
class HalfInside(Two):
    def forward(self, x):
        h = torch.relu(self.a(x)).to(torch.bfloat16)
        return self.head(torch.relu(self.b((h * 2).to(x.dtype))))


@code("float32 inside", limit=1e-5, compares_step=False)
class SingleInside(Two):
    def forward(self, x):
        h = torch.relu(self.a(x)).float().softmax(-1).type_as(x)
        return self.head(torch.relu(self.b(h)))


@code("complex weights", prunes=["b"])
class ComplexWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.real, self.imag = nn.Linear(6, 8, bias=False), nn.Linear(6, 8, bias=False)
        self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.b(torch.complex(self.real(x), self.imag(x)).abs())))


@code("complex parameter", compares_step=False, double=False, example=call(real(B, 6)))
def complex_parameter():
    return ComplexParameter()


class ComplexParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(6, 8).double(), nn.Linear(8, 3).double()
        self.turn = nn.Parameter(torch.randn(8, dtype=torch.complex128))

    def forward(self, x):
        return self.head((torch.relu(self.a(x)) * self.turn).abs())


@code("Fourier layer over positions (FNO)", call(real(B, 12, 6)), example=call(real(B, 8, 6)), compares_step=False)
class FourierLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.w = nn.Parameter(torch.randn(8, 8, 3, 2))

    def forward(self, x):
        x = torch.relu(self.a(x)).mT
        f = torch.fft.rfft(x)
        y = torch.zeros(len(x), 8, f.shape[-1], dtype=f.dtype)
        y[..., :3] = torch.einsum("bik,iok->bok", f[..., :3], torch.view_as_complex(self.w))
        return self.head(torch.relu(self.b(torch.fft.irfft(y, n=x.shape[-1]).mT)))


@code("symbolically traced", MORE)
def graph_module():
    return torch.fx.symbolic_trace(Two())


@network("code: symbolically traced attention", call(real(B, 5, 6)), call(real(B, 7, 6)))
def graph_attention():
    from hostile_networks_attention import Net, PackedReshape

    model = Net(nn.Identity())
    model.attn = torch.fx.symbolic_trace(PackedReshape(packed=True), concrete_args={"mask": None})

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            h = self.net.embed(x)
            return self.net.head(h + self.net.attn(h))

    return Wrapped()


def scripted_part(kind):
    def build():
        model = Two()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.b = torch.jit.script(model.b) if kind == "script" else torch.jit.trace(model.b, torch.zeros(2, 8))
        return model

    return build


code("scripted part", refused="script|TorchScript|jit")(scripted_part("script"))
code("traced part of torch.jit", refused="script|TorchScript|jit")(scripted_part("trace"))


@code("scripted function within forward", prunes=["b"])
class ScriptedFunction(Two):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return self.head(torch.relu(self.b(scripted_scale()(self.a(x)))))


@functools.cache
def scripted_scale():
    def scale(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) / x.shape[1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(scale)


@code("a layer that never runs", compares_step=True)
class Unused(Two):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(8, 8)


@code("the network is one layer", refused="no prunable units")
def one_layer():
    return nn.Linear(6, 3)


@code("frozen parameters, some trainable")
def frozen():
    model = Two()
    model.a.requires_grad_(False)
    model.b.bias.requires_grad_(False)
    return model


@code("subclass of nn.Linear with another forward", prunes=["a"])
class OtherLinear(Two):
    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x) / self.in_features**0.5

    def __init__(self):
        super().__init__()
        self.b = self.Scaled(8, 8)


@code("Sequential with modules of an OrderedDict, indexed in forward")
class Indexed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(OrderedDict(first=nn.Linear(6, 8), act=nn.ReLU(), second=nn.Linear(8, 8)))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.body[:2](x)
        return self.head(torch.relu(self.body[-1](x)) + self.body.second(x) * 0.1)


@code("modules in a plain list and a lambda", compares_step=False)
class PlainList(Two):
    """Layers in a plain list are no submodules; their parameters are not to be cut."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.hiddens = [nn.Linear(8, 8).double(), lambda t: t.relu()]

    def forward(self, x):
        h = torch.relu(self.a(x))
        for function in self.hiddens:
            h = function(h)
        return self.head(torch.relu(self.b(h)))


@code("nested inputs: dict of lists", example=call({"x": [X, X], "scale": 2.0}))
class NestedInputs(Two):
    def forward(self, inputs):
        first, second = inputs["x"]
        return self.head(self.hidden(first) + self.hidden(second) * inputs["scale"])


@code("keyword-only arguments", call(x=X, y=X), traced(x=X), example=call(x=X, y=X))
class KeywordOnly(Two):
    def forward(self, *, x, y=None):
        return self.head(self.hidden(x if y is None else x + y))


@code("inputs as a list of images", example=call([real(3, 6, 6), real(3, 6, 6)]), batches=False)
class ListOfImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Linear(6, 3)

    def forward(self, images):
        return [self.head(torch.relu(self.b(torch.relu(self.a(i[None])))).mean((2, 3))) for i in images]


@code("residual connection by a helper module with a callable", prunes=["a.module.0"])
def residual_helper():
    class Residual(nn.Module):
        def __init__(self, module, join=torch.add):
            super().__init__()
            self.module, self.join = module, join

        def forward(self, x, *args):
            return self.join(x, self.module(x, *args))

    model = Two()
    model.a = Residual(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)))
    model.b, model.head = nn.Sequential(nn.Linear(6, 8), nn.Identity()), nn.Linear(8, 3)
    return model


@code("contextlib and try within forward")
class Contexts(Two):
    def forward(self, x):
        with contextlib.suppress(ZeroDivisionError):
            x = x / 1
            1 / 0  # noqa: B018
        try:
            return self.head(self.hidden(x))
        finally:
            del x


@code("checks its own sizes", may_refuse=True)
class ChecksSizes(Two):
    """An assertion on a size that pruning changes must not become a raw exception."""

    def forward(self, x):
        h = self.hidden(x)
        assert h.shape[1] == 8
        return self.head(h)


@code("raises by its own sizes", may_refuse=True)
class RaisesSizes(Two):
    def forward(self, x):
        h = self.hidden(x)
        if h.size(-1) != self.head.in_features:
            raise ValueError("width")
        return self.head(h)
