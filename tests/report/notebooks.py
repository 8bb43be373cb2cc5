"""What notebooks' stylesheets say of all tables in a cell's output.

Facts of JupyterLab 4 (rendermime) and VS Code (the notebook's output), in few rules.
"""

_JUPYTER = """
.jp-RenderedHTMLCommon { font-size: 14px; line-height: 1.6; }
.jp-RenderedHTMLCommon :not(pre) > code { white-space: pre-wrap; padding: 1px 5px; }
.jp-RenderedHTMLCommon table { table-layout: fixed; font-size: 12px; margin: auto;
  border-collapse: collapse; }
.jp-RenderedHTMLCommon td, .jp-RenderedHTMLCommon th { white-space: normal;
  vertical-align: middle; padding: .5em; border: none; line-height: normal; }
:not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon td,
:not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon th { text-align: right; }
.jp-RenderedHTMLCommon tbody tr:nth-child(even) { background: #eee; }
"""
_CODE = """
table, thead, tr, th, td, tbody { border: none !important; border-collapse: collapse; }
table, th, tr { text-align: left !important; vertical-align: middle; }
th, td { padding: 4px 8px; }
tr:nth-child(even) { background: rgba(130, 130, 130, .08); }
"""
_CODE_LATER = _CODE.replace("left !important", "right")

# By name: rules, attributes of the body, class of what holds the output.
NOTEBOOKS = {
    "jupyter": (_JUPYTER, 'data-jp-theme-light="true"', "jp-RenderedHTMLCommon"),
    "code": (_CODE, 'class="vscode-light"', "output"),
    "later code": (_CODE_LATER, 'class="vscode-light"', "output"),
}


def cell(name, fragment, more=""):
    """Return a page that shows a fragment as a notebook of this name does."""
    rules, body, holder = NOTEBOOKS[name]
    return (
        f"<!DOCTYPE html><meta charset='utf-8'><title></title><style>{rules}</style>"
        f"<body {body}><div class='{holder}' style='width: 1100px'>{fragment}</div>"
        f"{more}</body>"
    )
