"""Facts of a meta-training in words; no TensorFlow here."""


def noise(trained) -> str:
    """Returns what disturbed a student's training, empty where nothing did.

    Args:
        trained: what a saved student's header, or a record of it, says: a
            `perturbation` (`kind`, `radius`) and the size of an `input_noise`, if any.
    """
    perturbation = trained.get("perturbation") or {}
    told = []
    if perturbation:
        told.append(f"{perturbation['kind']} {perturbation.get('radius', 0.0):g}")
    if trained.get("input_noise"):
        told.append(f"inputs {trained['input_noise']:g}")
    return ", ".join(told)
