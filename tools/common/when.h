/*
 * when.h: points in time as people write them.
 *
 *   2026-01-11T04:15:02.113Z   RFC 3339: with Z or +hh:mm, or a date alone (midnight UTC)
 *   1768104902113              ms since 1970
 *   -5m                        ago: a duration with a minus before it
 *   now
 */
#ifndef TOOLS_WHEN_H
#define TOOLS_WHEN_H

#include <qbase/err.h>

/* Q_OK or Q_INVALID, with a fault that says how to write it. Pure. */
Q_MUST_CHECK enum q_err when_parse(const char *text, uint64_t now_ms, uint64_t *ret_ms);

#endif /* TOOLS_WHEN_H */
