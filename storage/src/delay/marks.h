/*
 * delay/marks.h: a set of delay sequences: one bit for each, in pages; a full page takes no memory.
 *
 * Thread: the owner's. Memory: a page of 8 KiB for each 65,536 sequences of which some, not all, are
 * marked, or that were reserved; 8 bytes for each 65,536 above the first that is not.
 */
#ifndef QL_DELAY_MARKS_H
#define QL_DELAY_MARKS_H

#include <qbase/err.h>

#include "format/delay_record.h"

struct ql_marks_page {
    uint32_t set;
    uint64_t bits[QL_MARKS_WORDS];
};

struct ql_marks {
    uint64_t first; /* number of the page pages[0]; all pages below are full */
    struct ql_marks_page **pages;
    uint32_t count;
    uint32_t capacity;
};

/* What lies below `end` can be set without failing. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_marks_reserve(struct ql_marks *marks, uint64_t end);
/* All below `end`, a page's beginning, are set: nothing was reserved yet. */
void ql_marks_begin(struct ql_marks *marks, uint64_t end);
bool ql_marks_has(const struct ql_marks *marks, uint64_t sequence);
void ql_marks_set(struct ql_marks *marks, uint64_t sequence);
/* Of a full page, too: Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_marks_clear(struct ql_marks *marks, uint64_t sequence);
/* All of whole pages. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_marks_fill(struct ql_marks *marks, uint64_t first, uint64_t end);
bool ql_marks_has_all(const struct ql_marks *marks, uint64_t sequence, uint32_t count);
/* How many from `from` on and below `end`, which is reserved, are not set. */
uint64_t ql_marks_count_unset(const struct ql_marks *marks, uint64_t from, uint64_t end);
/* The bits of a page, and whether one of them is set. `number`: marks->first … + marks->count - 1. */
bool ql_marks_bits(
    const struct ql_marks *marks, uint64_t number, uint64_t ret_bits[QL_MARKS_WORDS]);
/* Every bit of that page is set. */
bool ql_marks_is_full(const struct ql_marks *marks, uint64_t number);
void ql_marks_free(struct ql_marks *marks);

#endif /* QL_DELAY_MARKS_H */
