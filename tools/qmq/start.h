/*
 * start.h: where to begin, as people write it.
 *
 *   earliest, start       the first message that is stored
 *   latest, end           what comes from now on
 *   1234                  a sequence
 *   @2026-01-11T04:15Z    a time (tools/common/when.h): also @1768104902113, -5m
 */
#ifndef QMQ_TOOL_START_H
#define QMQ_TOOL_START_H

#include <qbase/err.h>
#include <qmq/qmq.h>

#define START_PARAM "earliest|latest|SEQ|@TIME"

/* Q_OK or Q_INVALID, with a fault that says how to write it. */
Q_MUST_CHECK enum q_err start_parse(const char *text, enum qmq_start *ret_start, uint64_t *ret_at);

#endif /* QMQ_TOOL_START_H */
