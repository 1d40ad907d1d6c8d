"""The statements that count usage, filled in by `usage_report`. What people type is never part of them."""

# What each source's rows are, by one set of names. %(team)s, %(begin)s and %(end)s are filled in.
_API = """
    SELECT used.at, used.status >= 400 AS failed, used.prompt_tokens, used.cached_tokens,
           used.completion_tokens, used.gpu_s, used.core_s, used.cost, used.busy_s, used.ttft_ms AS ttft,
           {label} AS label, {step} AS step
    FROM endpoints_usage AS used {joins}
    WHERE used.team_id = %(team)s AND used.at >= %(begin)s AND used.at < %(end)s
"""
_HELD = """
    (made.timings ->> 'busy_s')::float8 AS busy_s, (made.timings ->> 'gpu_s')::float8 AS gpu_s,
    CASE WHEN made.timings ? 'gpu_s' THEN NULL
         ELSE (made.timings ->> 'busy_s')::float8 * (replica.resources ->> 'cores')::float8 END AS core_s,
    (made.timings ->> 'cost')::float8 AS cost, (made.timings ->> 'ttft')::float8 AS ttft,
    (made.usage ->> 'prompt_tokens')::bigint AS prompt_tokens,
    (made.usage ->> 'cached_tokens')::bigint AS cached_tokens,
    (made.usage ->> 'completion_tokens')::bigint AS completion_tokens
"""
# An answer without an owner is a copy: of a fork, or of a logged request. It was asked elsewhere.
_PLAYGROUND = f"""
    SELECT made.created_at AS at, made.state IN ('failed', 'interrupted') AS failed, {_HELD},
           {{label}} AS label, {{step}} AS step
    FROM playground_conversation AS conversation
    JOIN playground_turn AS turn ON turn.conversation_id = conversation.id
    JOIN playground_generation AS made ON made.turn_id = turn.id
    LEFT JOIN playground_replica AS replica ON replica.id = made.replica_id {{joins}}
    WHERE conversation.team_id = %(team)s AND made.created_at >= %(begin)s AND made.created_at < %(end)s
      AND made.state NOT IN ('pending', 'streaming') AND made.owner <> ''
"""
_BATCH = f"""
    SELECT made.created_at AS at, NOT made.ok AS failed, {_HELD},
           {{label}} AS label, {{step}} AS step
    FROM playground_batch AS batch
    JOIN playground_batchcolumn AS own ON own.batch_id = batch.id
    JOIN playground_batchresult AS made ON made.column_id = own.id
    LEFT JOIN playground_replica AS replica ON replica.id = made.replica_id {{joins}}
    WHERE batch.team_id = %(team)s AND made.created_at >= %(begin)s AND made.created_at < %(end)s
"""
_MEASURED = """
    SELECT made.at, made.failed, made.busy_s, made.gpu_s, made.core_s, made.cost, made.ttft_ms AS ttft,
           made.prompt_tokens, made.cached_tokens, made.completion_tokens, {label} AS label, {step} AS step
    FROM playground_measureduse AS made {joins}
    WHERE made.team_id = %(team)s AND made.at >= %(begin)s AND made.at < %(end)s
"""
ROWS = {"api": _API, "playground": _PLAYGROUND, "batch": _BATCH, "measured": _MEASURED}

_KEY = " LEFT JOIN endpoints_apikey AS key ON key.id = {of}.key_id"
_KEY_OF_DAY = " LEFT JOIN endpoints_apikey AS key ON key.id = used.key"
_PERSON = " LEFT JOIN playground_user AS person ON person.id = {id}"
_MODEL = (
    " LEFT JOIN playground_configuration AS configuration ON configuration.id = made.configuration_id"
    " LEFT JOIN playground_model AS model ON model.id = configuration.model_id"
)
_SENT = " LEFT JOIN endpoints_apibatch AS sent ON sent.batch_id = batch.id"
STEP = "date_trunc('{step}', {at} AT TIME ZONE 'UTC')"
# (label, joins) by group and source. A request's person is who made its key.
LABELS: dict[str, dict[str, tuple[str, str]]] = {
    "person": {
        "api": ("person.username", _KEY.format(of="used") + _PERSON.format(id="key.created_by_id")),
        "playground": ("person.username", _PERSON.format(id="turn.created_by_id")),
        "batch": (
            "person.username",
            _SENT
            + _KEY.format(of="sent")
            + _PERSON.format(id="coalesce(batch.created_by_id, key.created_by_id)"),
        ),
        "measured": ("person.username", _PERSON.format(id="made.user_id")),
    },
    "key": {
        "api": (
            "coalesce(key.name || ' (sk-slip-' || key.prefix || ')', used.key_name)",
            _KEY.format(of="used"),
        ),
        "playground": ("NULL", ""),
        "batch": ("key.name || ' (sk-slip-' || key.prefix || ')'", _SENT + _KEY.format(of="sent")),
        "measured": ("NULL", ""),
    },
    "endpoint": {
        "api": ("used.endpoint", ""),
        "playground": ("NULL", ""),
        "batch": ("nullif(split_part(sent.model, ':', 1), '')", _SENT),
        "measured": ("NULL", ""),
    },
    "model": {
        "api": ("nullif(used.model, '')", ""),
        "playground": ("model.name", _MODEL),
        "batch": ("model.name", _MODEL),
        "measured": ("model.name", _MODEL),
    },
    "engine": {
        "api": ("nullif(used.engine, '')", ""),
        "playground": ("configuration.engine", _MODEL),
        "batch": ("configuration.engine", _MODEL),
        "measured": ("configuration.engine", _MODEL),
    },
}
# Of whole days requests of /v1 are added up already: (which sums, their label, joins) by group.
_DAY = "used.day::timestamp"
DAY_LABELS: dict[str, tuple[str, str, str]] = {
    "person": ("key", "person.username", _KEY_OF_DAY + _PERSON.format(id="key.created_by_id")),
    "key": ("key", "coalesce(key.name || ' (sk-slip-' || key.prefix || ')', used.value)", _KEY_OF_DAY),
    "endpoint": ("endpoint", "used.value", ""),
    "model": ("model", "used.value", ""),
    "engine": ("engine", "used.value", ""),
    "day": ("engine", _DAY, ""),
}
_OF_DAYS = """
    FROM endpoints_usageday AS used {joins}
    WHERE used.team_id = %(team)s AND used.dimension = %(dimension)s
      AND used.day >= %(first)s AND used.day <= %(last)s
"""
DAY_SUMS = f"""
    SELECT {_DAY} AS step, {{label}} AS label, sum(used.requests)::bigint AS requests,
           sum(used.errors)::bigint AS errors, sum(used.prompt_tokens)::bigint AS prompt_tokens,
           sum(used.cached_tokens)::bigint AS cached_tokens,
           sum(used.completion_tokens)::bigint AS completion_tokens, sum(used.gpu_s) AS gpu_s,
           sum(used.core_s) AS core_s, sum(used.cost) AS cost, sum(used.unpriced)::bigint AS unpriced
    {_OF_DAYS} GROUP BY 1, 2
"""
DAY_SPREAD = f"""
    SELECT {{label}} AS label, one.step, sum(one.times)::bigint AS times
    FROM (SELECT * {_OF_DAYS.replace("{joins}", "")}) AS used {{joins}}
    CROSS JOIN LATERAL unnest(used.ttft_steps, used.ttft_times) AS one (step, times)
    GROUP BY 1, 2 ORDER BY 2
"""
AT = {"api": "used.at", "playground": "made.created_at", "batch": "made.created_at", "measured": "made.at"}
# One pass for the table, the totals and the chart: groups of steps are few, and are added up here.
SUMS = """
    SELECT step, label, count(*) AS requests, count(*) FILTER (WHERE failed) AS errors,
           sum(prompt_tokens)::bigint AS prompt_tokens, sum(cached_tokens)::bigint AS cached_tokens,
           sum(completion_tokens)::bigint AS completion_tokens, sum(gpu_s) AS gpu_s, sum(core_s) AS core_s,
           sum(cost) AS cost, count(*) FILTER (WHERE busy_s IS NOT NULL AND cost IS NULL) AS unpriced
    FROM ({rows}) AS rows GROUP BY step, label
"""
# Percentiles sort what they are of: as little as can be.
SPREAD = """
    SELECT label, grouping(label) AS whole,
           percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY ttft) AS ttft
    FROM ({rows}) AS rows WHERE NOT failed AND ttft IS NOT NULL GROUP BY GROUPING SETS ((label), ())
"""
