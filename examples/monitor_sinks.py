"""A VarianceMonitor's records in files, TensorBoard, Weights & Biases and MLflow.

Trains a small network on scikit-learn's bundled handwritten digits and hands what the
monitor measures to every sink whose package is installed; W&B and MLflow stay offline.

    python examples/monitor_sinks.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from sklearn.datasets import load_digits

import keras_initlab as il
from keras_initlab.monitor.sinks import CSV, JSONLines, Sink, TensorBoard

DEPTH, WIDTH, EPOCHS = 6, 64, 8


def network(depth: int) -> keras.Model:
    """Return a plain ReLU network for images (n, 64) of ten digits."""
    hidden = [
        keras.layers.Dense(
            WIDTH,
            activation="relu",
            kernel_initializer="initlab>auto",
            name=f"hidden_{index}",
        )
        for index in range(1, depth + 1)
    ]
    head = keras.layers.Dense(10, activation="softmax", name="head")
    model = keras.Sequential([keras.Input((64,)), *hidden, head])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def wandb_sink(folder: Path) -> Sink:
    """Return a sink for a run of Weights & Biases that stays on this machine."""
    import wandb

    wandb.init(
        project="keras-initlab",
        mode="offline",
        dir=folder,
        settings=wandb.Settings(silent=True),
    )
    return lambda rows: wandb.log(
        {f"variance/{r['layer']}": r["variance"] for r in rows}
    )


def mlflow_sink(folder: Path) -> Sink:
    """Return a sink for a run of MLflow in a database of its own."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder.absolute() / 'mlflow.db'}")
    if mlflow.get_experiment_by_name("keras-initlab") is None:
        artifacts = (folder / "mlflow").absolute().as_uri()
        mlflow.create_experiment("keras-initlab", artifact_location=artifacts)
    mlflow.set_experiment("keras-initlab")
    mlflow.start_run()

    def log(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            # MLflow takes no # in a name.
            name = f"variance/{row['layer'].replace('#', '.')}"
            mlflow.log_metric(name, row["variance"], step=row["epoch"])

    return log


def show(folder: Path, sinks: dict[str, Sink]) -> None:
    """Print what each sink wrote, and end the runs of W&B and MLflow."""
    path = folder / "run.jsonl"
    print(f"\n{path} begins with\n  {path.read_text().splitlines()[0]}")
    path = folder / "run.csv"
    print(f"{path} begins with")
    print(
        *(f"  {line}\n" for line in path.read_text().splitlines()[:3]), sep="", end=""
    )
    if "tensorboard" in sinks:
        print(f"For TensorBoard: tensorboard --logdir {folder / 'tensorboard'}")
    if "wandb" in sinks:
        import wandb

        run = wandb.run
        assert run is not None
        last = run.summary["variance/hidden_1"]
        wandb.finish()
        print(f"W&B has variance/hidden_1 = {last:.3g}: {Path(run.dir).parent}")
        print(f"  send it there with: wandb sync {Path(run.dir).parent}")
    if "mlflow" in sinks:
        import mlflow

        run = mlflow.active_run()
        assert run is not None
        mlflow.end_run()
        metrics = mlflow.get_run(run.info.run_id).data.metrics
        print(f"MLflow has variance/hidden_1 = {metrics['variance/hidden_1']:.3g}")
        print(
            f"  see it with: mlflow ui --backend-store-uri {mlflow.get_tracking_uri()}"
        )


def main() -> None:
    """Train under the monitor, then show what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few layers and epochs")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    depth, epochs = (2, 2) if arguments.quick else (DEPTH, EPOCHS)
    folder.mkdir(parents=True, exist_ok=True)

    sinks: dict[str, Sink] = {
        "json": JSONLines(folder / "run.jsonl"),
        "csv": CSV(folder / "run.csv"),
    }
    for name, make in {
        "tensorboard": lambda to: TensorBoard(to / "tensorboard", histograms=True),
        "wandb": wandb_sink,
        "mlflow": mlflow_sink,
    }.items():
        try:
            sinks[name] = make(folder)
        except ImportError as error:
            print(f"Without {name}, which is not installed ({error}).")

    x, y = load_digits(return_X_y=True)
    x = ((x - x.mean()) / x.std()).astype("float32")
    keras.utils.set_random_seed(1)
    print(
        f"{len(x)} handwritten digits, {depth} hidden layers, {epochs} epochs, "
        f"Keras {keras.version()} on {keras.backend.backend()}."
    )
    monitor = il.VarianceMonitor(every=5, histograms=True, sinks=list(sinks.values()))
    network(depth).fit(
        x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=[monitor]
    )
    show(folder, sinks)


if __name__ == "__main__":
    main()
