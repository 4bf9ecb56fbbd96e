"""The place of artifacts, which are not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "artifacts",
    """
    Artifact LinkArtifact MarkdownArtifact TableArtifact ImageArtifact ProgressArtifact create_link_artifact
    create_markdown_artifact create_table_artifact create_image_artifact create_progress_artifact
    update_progress_artifact acreate_link_artifact acreate_markdown_artifact acreate_table_artifact
    acreate_image_artifact acreate_progress_artifact aupdate_progress_artifact
    """,
)
