"""asyncio tools that know no containers: tasks, threads, fork safety."""
