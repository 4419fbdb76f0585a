#include "consume/group.h"

enum {
    ATTEMPTS_DEFAULT = 16,
    PENDING_DEFAULT = 20 * 1000,
    PENDING_MAX = 1000 * 1000,
    KEEP_DEFAULT_MS = 10 * 60 * 1000,
    STRICT_BACKOFF_MAX_MS = 30 * 1000,
};

static const uint32_t backoff_default_ms[] = { 5000, 10000, 30000, 60000, 120000, 300000, 600000 };

enum q_err
ql_settings_complete(struct qlog_group_settings *settings)
{
    if (settings->attempts_max == 0) settings->attempts_max = ATTEMPTS_DEFAULT;
    if (settings->pending_max == 0) settings->pending_max = PENDING_DEFAULT;
    if (settings->filter_keep_ms == 0) settings->filter_keep_ms = KEEP_DEFAULT_MS;
    if (settings->attempts_max > QLOG_ATTEMPTS_MAX)
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "%u attempts; at most %u can be asked for", settings->attempts_max,
                           (unsigned)QLOG_ATTEMPTS_MAX));
    if (settings->pending_max > PENDING_MAX)
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "a pending set of %u messages; at most %u can be asked for",
                           settings->pending_max, (unsigned)PENDING_MAX));
    if (settings->backoff_count > QLOG_BACKOFF_MAX)
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "a back-off table of %u times; at most %u fit", settings->backoff_count,
                           (unsigned)QLOG_BACKOFF_MAX));
    if (settings->backoff_count == 0) {
        settings->backoff_count = sizeof(backoff_default_ms) / sizeof(backoff_default_ms[0]);
        for (uint32_t i = 0; i < settings->backoff_count; i++)
            settings->backoff_ms[i] = backoff_default_ms[i];
    }
    return Q_OK;
}

uint64_t
ql_settings_backoff_ms(const struct ql_group *group, uint32_t attempts)
{
    const struct qlog_group_settings *settings = &group->settings;
    uint32_t last = settings->backoff_count - 1;
    uint32_t at = attempts == 0 ? 0 : (uint32_t)q_min_u64(attempts - 1, last);
    if (group->of_dead) at = last;
    uint64_t wait_ms = settings->backoff_ms[at];
    return settings->strict ? q_min_u64(wait_ms, STRICT_BACKOFF_MAX_MS) : wait_ms;
}
