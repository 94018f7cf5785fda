"""nuScenes tables and maps -> one annotated sample file per sample."""
