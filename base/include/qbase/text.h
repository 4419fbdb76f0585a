/*
 * qbase/text.h: parse and print what people write: sizes, durations, times, JSON strings.
 *
 * Thread: any. Blocking: never. Memory: the caller's buffers.
 */
#ifndef QBASE_TEXT_H
#define QBASE_TEXT_H

#include <stdio.h>

#include <qbase/bytes.h>
#include <qbase/err.h>

/* "4096", "64KiB", "1GB" (KiB MiB GiB TiB, KB MB GB TB, B). Q_INVALID when not such. */
Q_MUST_CHECK enum q_err q_text_parse_size(const char *text, uint64_t *ret_bytes);
/* "50us" "250ms" "10s" "5m" "3h" "7d"; a bare number is seconds. Q_INVALID when not such. */
Q_MUST_CHECK enum q_err q_text_parse_duration(const char *text, uint64_t *ret_ns);
/* Decimal, whole text, within [min, max]. Q_INVALID when not such. */
Q_MUST_CHECK enum q_err q_text_parse_u64(
    const char *text, uint64_t min, uint64_t max, uint64_t *ret_value);
/* "2026-01-11T04:15:02.113Z" of epoch milliseconds; at least 25 bytes. Returns `out`. */
const char *q_text_format_time(uint64_t wall_ms, char *out, size_t out_size);
/* "1.5 GiB"; returns `out`. */
const char *q_text_format_size(uint64_t bytes, char *out, size_t out_size);
/* `bytes` as a JSON string with quotes. Bytes that are not UTF-8 become U+FFFD. */
void q_text_write_json(FILE *out, struct q_bytes bytes);
/* Bytes of the UTF-8 character at `at` (1…4); 0 when it is not well-formed within `left` > 0. */
size_t q_text_utf8_length(const uint8_t *at, size_t left);
/* Edit distance based: the candidate nearest to `word`, NULL when none is near. */
const char *q_text_nearest(const char *word, const char *const *candidates, size_t count);

#endif /* QBASE_TEXT_H */
