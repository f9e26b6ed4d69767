"""The commands, a file each: `add` describes the words it takes, `run` imports what it needs and does it."""

from mamba_unet.commands import (
    check,
    compare,
    evaluate,
    export,
    info,
    measure,
    phantom,
    plan,
    predict,
    prepare,
    recipe,
    recipes,
    report,
    scribble,
    serve,
    train,
)

COMMANDS = (
    phantom,
    check,
    prepare,
    plan,
    export,
    scribble,
    recipes,
    recipe,
    train,
    compare,
    evaluate,
    predict,
    measure,
    report,
    serve,
    info,
)
