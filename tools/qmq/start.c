/*
 * start.c: see start.h.
 */
#include "start.h"

#include <string.h>

#include <qbase/clock.h>
#include <qbase/text.h>

#include "when.h"

enum q_err
start_parse(const char *text, enum qmq_start *ret_start, uint64_t *ret_at)
{
    bool is_time = strpbrk(text, "@-:") != NULL || strcmp(text, "now") == 0;
    *ret_at = 0;
    if (strcmp(text, "earliest") == 0 || strcmp(text, "start") == 0) {
        *ret_start = QMQ_START_EARLIEST;
        return Q_OK;
    }
    if (strcmp(text, "latest") == 0 || strcmp(text, "end") == 0) {
        *ret_start = QMQ_START_LATEST;
        return Q_OK;
    }
    if (is_time) {
        *ret_start = QMQ_START_TIME;
        uint64_t now_ms = q_clock_wall_ms(q_clock_system());
        return when_parse(text + (text[0] == '@'), now_ms, ret_at);
    }
    *ret_start = QMQ_START_SEQUENCE;
    if (q_text_parse_u64(text, 0, UINT64_MAX - 1, ret_at) == Q_OK) return Q_OK;
    return Q_FAIL(
        Q_INVALID, .what = q_text("'%s' is no place to start", text),
        .hint = "write earliest, latest, a sequence, or a time as @2026-01-11T04:15:02Z or -5m");
}
