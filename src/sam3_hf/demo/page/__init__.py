"""The demo's page: Gradio components on one side, `sam3_hf.demo` on the other. Importing it needs Gradio."""

from .app import build_page, serve

__all__ = ["build_page", "serve"]
