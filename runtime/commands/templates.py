"""``edgead templates``: the template store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.options import STORE, DetectorName, Json, StoreDir, TemplateId, Who, Why, login, open_store

app = typer.Typer(
    no_args_is_help=True, help="The template store: list, show, activate, rollback, verify, export, import."
)


@app.command("list")
def templates_list(
    product: Annotated[str | None, typer.Option(help="Only this product's.")] = None,
    store: StoreDir = STORE,
    as_json: Json = False,
) -> None:
    """List the templates of a store; the active ones are marked."""
    from runtime.store.inventory import HEADINGS, list_templates
    from runtime.terminal import say, show

    records = list_templates(open_store(store), product)
    if records or as_json:
        shown = records if as_json else [each | {"template": each["template"][:12]} for each in records]
        show(shown, as_json, HEADINGS)
    for record in filter(lambda each: each["error"], records):
        say(f"{record['template'][:12]}: {record['error']}")
    if not records:
        say(f"no template{f' of {product!r}' if product else ''} in {store}; `edgead calibrate` makes one")


@app.command("show")
def templates_show(template: TemplateId, store: StoreDir = STORE, as_json: Json = False) -> None:
    """Show one template: settings, thresholds, provenance, and its ref log."""
    from runtime.store.inventory import describe_template
    from runtime.terminal import show

    show(describe_template(open_store(store), template, brief=not as_json), as_json, title=f"template {template}")


@app.command("activate")
def templates_activate(
    template: TemplateId, store: StoreDir = STORE, who: Who = "", why: Why = "", as_json: Json = False
) -> None:
    """Verify every byte of a template and make it the one that runs for its product and detector."""
    from runtime.terminal import show

    show(asdict(open_store(store).activate(template, who=who or login(), why=why)), as_json, title="activated")


@app.command("rollback")
def templates_rollback(
    product: Annotated[str, typer.Argument(help="Product.")],
    detector: DetectorName = "hetmm",
    store: StoreDir = STORE,
    *,
    who: Who = "",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Go back to the template that ran before the active one; repeated, further back."""
    from runtime.terminal import show

    show(
        asdict(open_store(store).rollback(product, detector, who=who or login(), why=why)), as_json, title="rolled back"
    )


@app.command("verify")
def templates_verify(
    template: Annotated[str | None, typer.Argument(help="Template id; the whole store without it.")] = None,
    store: StoreDir = STORE,
    as_json: Json = False,
) -> None:
    """Read every byte and name what is damaged or missing; exit code 4 if anything is."""
    from runtime.terminal import say, show

    problems = open_store(store).verify(template)
    if problems or as_json:
        show([asdict(problem) for problem in problems], as_json, ("path", "what", "templates"), "problems")
    else:
        say("every byte is as it was written")
    raise typer.Exit(4 if problems else 0)


@app.command("export")
def templates_export(
    template: TemplateId, file: Annotated[Path, typer.Argument(help="New file.")], store: StoreDir = STORE
) -> None:
    """Write a template as one file for another box."""
    from runtime.terminal import say

    say(f"wrote {open_store(store).export(template, file)}")


@app.command("import")
def templates_import(
    file: Annotated[Path, typer.Argument(help="File made by `templates export`.")],
    store: StoreDir = STORE,
    who: Who = "",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Take in an exported template once every byte is proven; activates nothing."""
    from runtime.store import Store
    from runtime.terminal import show

    template = Store.create(store).import_(file, who=who or login(), why=why)
    show({"template": template.digest, "product": template.manifest.product}, as_json, title="imported")
