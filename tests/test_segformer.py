"""Our SegFormer is the function that transformers computes, and reads and writes its weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from faceparse_core.models.segformer import (
    SIZES,
    SegFormer,
    SegFormerConfig,
    config_from_weights,
)
from faceparse_core.models.segformer_names import from_published, to_published

# The fields of the published face-parsing model's config that shape the network.
PUBLISHED_B5 = {
    "depths": [3, 6, 40, 3],
    "hidden_sizes": [64, 128, 320, 512],
    "num_attention_heads": [1, 2, 5, 8],
    "sr_ratios": [8, 4, 2, 1],
    "mlp_ratios": [4, 4, 4, 4],
    "decoder_hidden_size": 768,
}


@torch.no_grad()
def build_reference(seed=0, **fields):
    """transformers' SegFormer (B0 unless fields say otherwise) with nothing left at a value that hides a mistake."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(seed)
    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=19, **fields)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
        else:
            parameter.normal_(std=1.2 / parameter[0].numel() ** 0.5)
    norm = model.decode_head.batch_norm
    norm.running_mean.normal_(std=0.3)
    norm.running_var.uniform_(0.3, 2)
    return model


def ours(reference) -> SegFormer:
    config = SegFormerConfig.from_dict(reference.config.to_dict())
    return SegFormer.with_weights(config, from_published(reference.state_dict()))


def picture(height, width, batch=1, seed=0):
    """Smooth patches with a little noise: normalised pixels, [B, 3, H, W]."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 3, height // 16, width // 16, generator=random)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")
    return smooth + 0.1 * torch.randn(batch, 3, height, width, generator=random)


def upsample(logits, pixels):
    return F.interpolate(logits, size=pixels.shape[-2:], mode="bilinear", align_corners=False)


def assert_same(logits, expected, pixels, tolerance=2e-5):
    """Logits within the tolerance, relative to the largest, and every label at full size.

    Where the two best logits of the reference tie to within a rounding error, no label is the right one: such pixels
    (a few in a million) may differ.
    """
    assert logits.shape == expected.shape
    scale = expected.abs().max()
    assert (logits - expected).abs().max() <= tolerance * scale
    full = upsample(expected, pixels)
    best = full.topk(2, dim=1).values
    decided = best[:, 0] - best[:, 1] > 4e-6 * scale
    assert decided.float().mean() > 0.9995
    assert full.argmax(1).unique().numel() > 2, "one label everywhere would prove nothing"
    assert torch.equal(upsample(logits, pixels).argmax(1)[decided], full.argmax(1)[decided])


@pytest.fixture(scope="module")
def reference():
    return build_reference()


@torch.no_grad()
@pytest.mark.parametrize("height, width, batch", [(64, 64, 1), (96, 160, 2), (256, 128, 1), (320, 416, 1)])
def test_equals_transformers(reference, height, width, batch):
    pixels = picture(height, width, batch)
    expected = reference(pixels).logits
    network = ours(reference)
    assert_same(network(pixels), expected, pixels)
    assert_same(network.fold()(pixels), expected, pixels)


@torch.no_grad()
def test_the_smallest_picture_works(reference):
    pixels = picture(32, 32, batch=3)
    logits = ours(reference).fold()(pixels)
    assert logits.shape == (3, 19, 8, 8)
    torch.testing.assert_close(logits, reference(pixels).logits, rtol=0, atol=1e-4)


@torch.no_grad()
def test_b5_equals_transformers_at_512():
    reference = build_reference(**PUBLISHED_B5)
    pixels = picture(512, 512)
    network = ours(reference).fold()
    assert network.config == SIZES["b5"]
    assert_same(network(pixels), reference(pixels).logits, pixels)


@torch.no_grad()
def test_norms_have_the_epsilon_of_transformers():
    """Tokens of tiny variance show which epsilon is at work; 1e-6, as published configs say, gives other logits."""
    reference = build_reference()
    for name, parameter in reference.named_parameters():
        if ".patch_embeddings." in name and ".proj." in name:
            parameter.mul_(3e-3)
    pixels = picture(64, 96)
    expected = reference(pixels).logits
    network = ours(reference)
    assert_same(network(pixels), expected, pixels)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    assert (network(pixels) - expected).abs().max() > 1e-2 * expected.abs().max()


@torch.no_grad()
def test_folding_changes_nothing_but_the_form(reference):
    network = ours(reference).train()
    pixels = picture(96, 64, batch=2)
    expected = network.eval()(pixels)
    parameters = sum(p.numel() for p in network.parameters())
    assert network.fold() is network and network.folded and not network.training
    assert_same(network(pixels), expected, pixels, tolerance=5e-6)
    assert sum(p.numel() for p in network.parameters()) < parameters
    assert not any(p.requires_grad for p in network.parameters())
    again = network(pixels)
    assert torch.equal(network.fold()(pixels), again)


@torch.no_grad()
def test_no_layout_is_copied(reference):
    """Linear layers and norms meet contiguous tokens, and convolutions give channels-last maps, all the way."""
    network = ours(reference).fold()
    wrong = []

    def check(name, module):
        def hook(module, inputs, output):
            if isinstance(module, nn.Conv2d):
                good = output.is_contiguous(memory_format=torch.channels_last)
            else:
                good = inputs[0].is_contiguous()
            if not good:
                wrong.append(name)

        module.register_forward_hook(hook)

    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm)):
            check(name, module)
    logits = network(picture(64, 96, batch=2))
    assert not wrong
    assert logits.is_contiguous()


@torch.no_grad()
def test_bfloat16_agrees_where_the_labels_are_clear(reference):
    pixels = picture(192, 256)
    network = ours(reference).fold()
    expected = network(pixels)
    logits = network.bfloat16()(pixels)
    assert network.dtype == torch.bfloat16
    assert (logits - expected).abs().mean() < 0.02 * expected.std()
    full, rounded = upsample(expected, pixels), upsample(logits, pixels)
    best = full.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 0.07 * full.std()
    same = rounded.argmax(1) == full.argmax(1)
    assert clear.float().mean() > 0.75
    assert same[clear].all()
    assert same.float().mean() > 0.96


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_end_of_the_head_stays_in_float32(reference, dtype):
    network = ours(reference).fold()
    before = network.head.classify.weight.clone()
    network.to(dtype)
    assert {p.dtype for p in network.head.classify.parameters()} == {torch.float32}
    assert {p.dtype for p in network.head.merged} == {dtype}
    assert torch.equal(network.head.classify.weight, before)
    logits = network.bfloat16()(picture(64, 64))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


@torch.no_grad()
def test_double_precision_is_kept(reference):
    network = ours(reference).fold()
    pixels = picture(64, 64)
    expected = network(pixels)
    logits = network.double()(pixels)
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=1e-4)


def test_training_has_the_gradients_of_transformers():
    """Without dropout, in train(): same loss, same gradients, same running statistics of the batch norm."""
    reference = build_reference(drop_path_rate=0.0, classifier_dropout_prob=0.0).train()
    network = ours(reference).train()
    pixels, labels = picture(64, 96, batch=2), torch.randint(0, 19, (2, 64, 96))
    expected = reference(pixels, labels=labels).loss
    loss = F.cross_entropy(upsample(network(pixels), pixels), labels)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(loss, expected)
    theirs = from_published({name: p.grad for name, p in reference.named_parameters()})
    assert theirs.keys() == dict(network.named_parameters()).keys()
    largest = max(grad.abs().max() for grad in theirs.values())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert (parameter.grad - theirs[name]).abs().max() < 1e-4 * theirs[name].abs().max() + 1e-6 * largest, name
    buffers = from_published(dict(reference.named_buffers()))
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], msg=name)


@torch.no_grad()
def test_dropout_and_drop_path_act_in_training_only(reference):
    pixels = picture(64, 64, batch=2)

    def varies(**rates):
        config = replace(SIZES["b0"], **{"drop_path": 0.0, "classifier_dropout": 0.0, **rates})
        network = SegFormer.with_weights(config, from_published(reference.state_dict()))
        assert torch.equal(network(pixels), network(pixels))
        network.train()
        return not torch.equal(network(pixels), network(pixels))

    assert not varies()
    for field in ("drop_path", "classifier_dropout", "hidden_dropout", "attention_dropout"):
        assert varies(**{field: 0.5}), field


@torch.no_grad()
def test_drop_path_leaves_out_whole_branches_and_keeps_the_mean():
    """The published schedule: no block of the first is dropped, the last at the full rate."""
    network = SegFormer(SIZES["b0"])
    rates = [block.drop_rate for stage in network.stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * index / 7 for index in range(8)])
    block = network.stages[3].blocks[1].train()
    dropped = block._drop_path(torch.ones(4000, 2, 1, 3))
    images = dropped.flatten(1)
    assert (images == images[:, :1]).all()
    assert 0.05 < (images[:, 0] == 0).float().mean() < 0.15
    assert dropped.mean() == pytest.approx(1, abs=0.05)


def test_a_step_of_training_lowers_the_loss():
    torch.manual_seed(0)
    network = SegFormer(replace(SIZES["b0"], drop_path=0.0, classifier_dropout=0.0)).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    pixels = picture(64, 64, batch=2)
    labels = (pixels[:, 0, ::4, ::4] > 0).long()
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(network(pixels), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_names_go_round(reference):
    """In-memory names of this transformers -> ours -> published -> ours: every tensor is where it was."""
    network = ours(reference)
    state = network.state_dict()
    published = to_published(state)
    assert len(published) == len(reference.state_dict())
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in published
    assert "decode_head.linear_c.3.proj.bias" in published
    assert all(tensor.is_contiguous() for tensor in published.values())
    back = from_published(published)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize(
    "name, same",
    [
        ("segformer.stages.2.patch_embeddings.proj.weight", "segformer.encoder.patch_embeddings.2.proj.weight"),
        ("segformer.stages.2.layer_norm.bias", "segformer.encoder.layer_norm.2.bias"),
        (
            "segformer.stages.1.blocks.10.attention.k_proj.weight",
            "segformer.encoder.block.1.10.attention.self.key.weight",
        ),
        (
            "segformer.stages.0.blocks.2.attention.sequence_reduction.sequence_reduction.weight",
            "segformer.encoder.block.0.2.attention.self.sr.weight",
        ),
        ("segformer.stages.0.blocks.2.layernorm_after.bias", "segformer.encoder.block.0.2.layer_norm_2.bias"),
        ("decode_head.linear_projections.1.proj.bias", "decode_head.linear_c.1.proj.bias"),
    ],
)
def test_names_of_transformers_5_and_4_mean_the_same(name, same):
    tensor = torch.zeros(1)
    assert from_published({name: tensor}).keys() == from_published({same: tensor}).keys()
    assert list(to_published(from_published({name: tensor}))) == [same]


@torch.no_grad()
def test_reads_a_folder_that_transformers_saved(reference, tmp_path):
    reference.save_pretrained(tmp_path)
    config = SegFormerConfig.from_dict(json.loads((tmp_path / "config.json").read_text()))
    weights = load_file(tmp_path / "model.safetensors")
    assert config == config_from_weights(weights) == SIZES["b0"]
    pixels = picture(64, 96)
    network = SegFormer.with_weights(config, from_published(weights)).fold()
    assert_same(network(pixels), reference(pixels).logits, pixels)


@torch.no_grad()
def test_transformers_reads_what_we_write(tmp_path):
    from transformers import SegformerForSemanticSegmentation

    torch.manual_seed(1)
    network = SegFormer(replace(SIZES["b0"], num_labels=7, decoder_width=64)).eval()
    save_file(to_published(network.state_dict()), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(network.config.to_dict()))
    model, report = SegformerForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    pixels = picture(64, 96)
    torch.testing.assert_close(network(pixels), model.eval()(pixels).logits, rtol=0, atol=1e-5)


def test_half_precision_files_are_read_as_float32(reference):
    weights = {key: value.half() for key, value in to_published(ours(reference).state_dict()).items()}
    network = SegFormer.with_weights(SIZES["b0"], from_published(weights))
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert torch.equal(network.head.fuse.weight, weights["decode_head.linear_fuse.weight"].float())


def test_a_file_without_the_batch_norms_counter_loads(reference):
    weights = to_published(ours(reference).state_dict())
    del weights["decode_head.batch_norm.num_batches_tracked"]
    network = SegFormer.with_weights(SIZES["b0"], from_published(weights))
    assert network.head.norm.num_batches_tracked == 0


@pytest.mark.parametrize("size", SIZES)
def test_the_config_of_each_size_shows_in_its_weights(size):
    config = replace(SIZES[size], num_labels=11)
    weights = to_published(SegFormer(config, initialise=False).state_dict())
    assert config_from_weights(weights) == config


def test_published_b5_has_its_number_of_parameters():
    network = SegFormer(SIZES["b5"], initialise=False)
    assert sum(p.numel() for p in network.parameters()) == 84_607_955
    assert SegFormerConfig.from_dict({**PUBLISHED_B5, "id2label": dict.fromkeys(range(19), "")}) == SIZES["b5"]


whole = st.integers(1, 4)
rates = st.floats(0, 0.99)


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        SegFormerConfig,
        depths=st.tuples(whole, whole, whole, whole),
        hidden_sizes=st.tuples(*(whole.map(lambda n, heads=heads: n * heads) for heads in (1, 2, 5, 8))),
        decoder_width=whole,
        mlp_ratios=st.tuples(whole, whole, whole, whole),
        sr_ratios=st.tuples(
            st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]), st.just(1)
        ),
        num_labels=whole,
        drop_path=rates,
        classifier_dropout=rates,
        hidden_dropout=rates,
        attention_dropout=rates,
    )
)
def test_configs_go_round_through_json(config):
    assert SegFormerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "upernet"}, "upernet"),
        ({"depths": None}, "depths"),
        ({"depths": [2, 2, 2]}, "depths"),
        ({"hidden_sizes": [32, 64, 161, 256]}, "num_heads"),
        ({"sr_ratios": [8, 8, 2, 1]}, "sr_ratios"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"strides": [4, 2, 2, 1]}, "strides"),
        ({"num_channels": 1}, "num_channels"),
        ({"drop_path_rate": 1.5}, "drop_path"),
        ({"decoder_hidden_size": 0}, "decoder_width"),
        ({"id2label": {"0": "skin"}}, "1 names in id2label but num_labels = 19"),
    ],
)
def test_configs_that_make_no_segformer_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SegFormerConfig.from_dict({**SIZES["b0"].to_dict(), **change})


@pytest.mark.parametrize("field", ["depths", "decoder_hidden_size", "sr_ratios", "num_labels"])
def test_a_config_that_lacks_a_field_is_refused(field):
    data = SIZES["b0"].to_dict()
    del data[field]
    with pytest.raises(ValueError, match=f"lacks .*{field}"):
        SegFormerConfig.from_dict(data)


def test_weights_that_do_not_fit_are_named(reference):
    published = to_published(ours(reference).state_dict())
    query = "segformer.encoder.block.3.1.attention.self.query.weight"

    def error(weights, config=SIZES["b0"]):
        with pytest.raises(ValueError) as caught:
            SegFormer.with_weights(config, from_published(weights))
        return str(caught.value)

    assert f"missing: {query}." in error({key: value for key, value in published.items() if key != query})
    extra = {**published, query.replace("3.1", "3.2"): published[query]}
    assert "not part of it: segformer.encoder.block.3.2.attention.self.query.weight." in error(extra)
    labels = error(published, replace(SIZES["b0"], num_labels=4))
    assert "decode_head.classifier.weight [19, 256, 1, 1] instead of [4, 256, 1, 1]" in labels
    assert "decode_head.classifier.bias [19] instead of [4]" in labels
    other_size = error(published, SIZES["b2"])
    assert "missing: " in other_size and "of another shape: " in other_size and " more" in other_size
    assert len(other_size) < 1500


def test_foreign_weights_are_named():
    with pytest.raises(ValueError, match="unknown: backbone.conv1.weight"):
        from_published({"backbone.conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="unknown: classifier.weight"):  # an image classifier's
        config_from_weights({"classifier.weight": torch.zeros(1000, 256)})
    double = {"decode_head.linear_c.1.proj.bias": 0, "decode_head.linear_projections.1.proj.bias": 0}
    with pytest.raises(ValueError, match="twice.*: decode_head.linear_projections.1.proj.bias"):
        from_published(double)


def test_weights_of_no_known_size_or_not_complete_are_refused(reference):
    weights = to_published(ours(reference).state_dict())
    deeper = {key.replace("block.2.1.", "block.2.2."): value for key, value in weights.items()}
    with pytest.raises(ValueError, match=r"\(2, 2, 3, 2\).*config.json"):
        config_from_weights({**weights, **deeper})
    del weights["decode_head.linear_fuse.weight"]
    with pytest.raises(ValueError, match="missing: decode_head.linear_fuse.weight"):
        config_from_weights(weights)


def test_a_folded_network_has_no_published_names(reference):
    network = ours(reference)
    weights = network.state_dict()
    network.fold()
    with pytest.raises(ValueError, match="not folded"):
        to_published(network.state_dict())
    with pytest.raises(ValueError, match="do not fit a folded SegFormer"):
        network.load_state_dict(weights)


@pytest.mark.parametrize(
    "pixels, message",
    [
        (torch.zeros(1, 3, 33, 64), r"multiples of 32, got \[1, 3, 33, 64\]"),
        (torch.zeros(1, 3, 64, 48), "multiples of 32"),
        (torch.zeros(1, 1, 64, 64), r"\[B, 3, H, W\]"),
        (torch.zeros(3, 64, 64), r"\[B, 3, H, W\]"),
        (torch.zeros(0, 3, 64, 64), r"got \[0, 3, 64, 64\]"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "floating-point pixels, got torch.uint8"),
    ],
)
def test_pixels_of_another_form_are_refused(pixels, message):
    network = SegFormer(SIZES["b0"], initialise=False)
    with pytest.raises(ValueError, match=message):
        network(pixels)
