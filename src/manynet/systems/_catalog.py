"""The fifty published systems of the series, by number: their short names and their papers."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["CATALOG"]

CATALOG: Mapping[int, tuple[str, str]] = {
    1: (
        "lighthubert",
        "LightHuBERT: Lightweight and Configurable Speech Representation Learning with "
        "Once-for-All Hidden-Unit BERT",
    ),
    2: ("efficienttdnn", "EfficientTDNN: Efficient Architecture Search for Speaker Recognition"),
    3: (
        "one-quantllm",
        "One QuantLLM for ALL: Fine-tuning Quantized LLMs Once for Efficient Deployments",
    ),
    4: ("variant", "Progressive Supernet Training for Efficient Visual Autoregressive Modeling"),
    5: ("tanglenas", "Weight-Entanglement Meets Gradient-Based Neural Architecture Search"),
    6: (
        "mixture-of-supernets",
        "Mixture-of-Supernets: Improving Weight-Sharing Supernet Training with "
        "Architecture-Routed Mixture-of-Experts",
    ),
    7: ("shiftnas", "ShiftNAS: Improving One-shot NAS via Probability Shift"),
    8: (
        "autodistil",
        "AutoDistil: Few-shot Task-agnostic Neural Architecture Search for Distilling "
        "Large Language Models",
    ),
    9: ("gm-nas", "Generalizing Few-Shot NAS with Gradient Matching"),
    10: ("pada", "PA&DA: Jointly Sampling PAth and DAta for Consistent NAS"),
    11: (
        "ponita",
        "Fast, Expressive SE(n) Equivariant Networks through Weight-Sharing in Position- "
        "Orientation Space",
    ),
    12: ("exssnet", "Exclusive Supermask Subnetwork Training for Continual Learning"),
    13: ("bignas", "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models"),
    14: ("enas-memory", "Understanding Neural Architecture Search Techniques"),
    15: (
        "balanced-mixture-of-supernets",
        "Balanced Mixture of SuperNets for Learning the CNN Pooling Architecture",
    ),
    16: (
        "hardware-aware-search",
        "A Hardware-Aware System for Accelerating Deep Neural Network Optimization",
    ),
    17: ("sret", "Sliced Recursive Transformer"),
    18: ("deps", "DεpS: Delayed ε-Shrinking for Faster Once-For-All Training"),
    19: ("hypernetworks", "A Brief Review of Hypernetworks in Deep Learning"),
    20: ("fed-pub", "Personalized Subgraph Federated Learning"),
    21: ("vit-resnas", "Searching for Efficient Multi-Stage Vision Transformers"),
    22: ("auto-gnn", "Auto-GNN: Neural Architecture Search of Graph Neural Networks"),
    23: (
        "masa",
        "Share Your Attention: Transformer Weight Sharing via Matrix-based Dictionary Learning",
    ),
    24: (
        "g-rank",
        "G-Rank: Unsupervised Continuous Learn-to-Rank for Edge Devices in a P2P Network",
    ),
    25: (
        "fedpeft",
        "Exploring Parameter-Efficient Fine-Tuning to Enable Foundation Models in "
        "Federated Learning",
    ),
    26: (
        "sws-learngene",
        "Exploring Learngene via Stage-wise Weight Sharing for Initializing Variable- sized Models",
    ),
    27: ("eq-net", "EQ-Net: Elastic Quantization Neural Networks"),
    28: ("foldgpt", "FoldGPT: Simple and Effective Large Language Model Compression Scheme"),
    29: ("crossfi", "CrossFi: A Cross Domain Wi-Fi Sensing Framework Based on Siamese Network"),
    30: (
        "subnet-replacement",
        "Towards Practical Deployment-Stage Backdoor Attack on Deep Neural Networks",
    ),
    31: (
        "supertickets",
        "SuperTickets: Drawing Task-Agnostic Lottery Tickets from Supernets via Jointly "
        "Architecture Searching and Parameter Pruning",
    ),
    32: ("darts-pt", "Rethinking Architecture Selection in Differentiable NAS"),
    33: ("spen", "Subgraph Permutation Equivariant Networks"),
    34: ("layer-lottery", "When Layers Play the Lottery, all Tickets Win at Initialization"),
    35: (
        "weight-compander",
        "Weight Compander: A Simple Weight Reparameterization for Regularization",
    ),
    36: (
        "mos-lora",
        "MoS: Unleashing Parameter Efficiency of Low-Rank Adaptation with Mixture of Shards",
    ),
    37: ("d2nwg", "Diffusion-Based Neural Network Weights Generation"),
    38: (
        "subgraph-wl",
        "A Complete Expressiveness Hierarchy for Subgraph GNNs via Subgraph Weisfeiler- "
        "Lehman Tests",
    ),
    39: ("faros", "FAROS: Fair Graph Generation via Attribute Switching Mechanisms"),
    40: (
        "hidenseek",
        "HideNseek: Federated Lottery Ticket via Server-side Pruning and Sign Supermask",
    ),
    41: ("lifl", "LIFL: A Lightweight, Event-driven Serverless Platform for Federated Learning"),
    42: ("phase-model-zoo", "A Model Zoo on Phase Transitions in Neural Networks"),
    43: (
        "alf-lb",
        "A Theoretical Framework for Auxiliary-Loss-Free Load Balancing of Sparse "
        "Mixture-of-Experts in Large-Scale AI Models",
    ),
    44: ("grokking-tickets", "Grokking Tickets: Lottery Tickets Accelerate Grokking"),
    45: ("spark-embedding", "Large-Scale Network Embedding in Apache Spark"),
    46: (
        "elasticvit",
        "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision "
        "Transformer on Diverse Mobile Devices",
    ),
    47: (
        "tdn",
        "Tensor Decomposition Networks for Fast Machine Learning Interatomic Potential "
        "Computations",
    ),
    48: ("fedconv", "FedConv: A Learning-on-Model Paradigm for Heterogeneous Federated Clients"),
    49: ("gbrl", "Gradient Boosting Reinforcement Learning"),
    50: ("model-assembling", "Deep Model Assembling"),
}
"""Number to short name and title of the paper."""
