"""The calls of LikeAdminService: counts, hot posts, purges, imports and exports."""
