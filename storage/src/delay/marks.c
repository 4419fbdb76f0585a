#include "delay/marks.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

static struct ql_marks_page full_page; /* known by its address; never written */

static bool
page_of(const struct ql_marks *marks, uint64_t sequence, uint32_t *ret_index)
{
    uint64_t number = sequence / QL_MARKS_MESSAGES;
    if (number < marks->first) return false;
    Q_ASSERT(number - marks->first < marks->count);
    *ret_index = (uint32_t)(number - marks->first);
    return true;
}

static enum q_err
marks_need_place(struct ql_marks *marks)
{
    if (marks->count < marks->capacity) return Q_OK;
    uint32_t capacity = marks->capacity == 0 ? 16 : marks->capacity * 2;
    struct ql_marks_page **pages = realloc(marks->pages, capacity * sizeof(pages[0]));
    if (pages == NULL) return Q_FAIL(Q_E_NOMEM, .what = "marks of delayed messages");
    marks->pages = pages;
    marks->capacity = capacity;
    return Q_OK;
}

/* Full pages at the front are let go. */
static void
marks_trim(struct ql_marks *marks)
{
    uint32_t full = 0;
    while (full < marks->count && marks->pages[full] == &full_page)
        full++;
    marks->first += full;
    marks->count -= full;
    memmove(marks->pages, marks->pages + full, marks->count * sizeof(marks->pages[0]));
}

enum q_err
ql_marks_reserve(struct ql_marks *marks, uint64_t end)
{
    uint64_t wanted = (end + QL_MARKS_MESSAGES - 1) / QL_MARKS_MESSAGES;
    while (marks->first + marks->count < wanted) {
        Q_TRY(marks_need_place(marks));
        struct ql_marks_page *page = calloc(1, sizeof(*page));
        if (page == NULL) return Q_FAIL(Q_E_NOMEM, .what = "marks of delayed messages");
        marks->pages[marks->count++] = page;
    }
    return Q_OK;
}

void
ql_marks_begin(struct ql_marks *marks, uint64_t end)
{
    Q_ASSERT(marks->count == 0);
    marks->first = end / QL_MARKS_MESSAGES;
}

bool
ql_marks_has(const struct ql_marks *marks, uint64_t sequence)
{
    uint32_t index;
    if (!page_of(marks, sequence, &index)) return true;
    const struct ql_marks_page *page = marks->pages[index];
    uint64_t at = sequence % QL_MARKS_MESSAGES;
    return page == &full_page || (page->bits[at / 64] >> (at % 64) & 1) != 0;
}

void
ql_marks_set(struct ql_marks *marks, uint64_t sequence)
{
    uint32_t index;
    if (ql_marks_has(marks, sequence) || !page_of(marks, sequence, &index)) return;
    struct ql_marks_page *page = marks->pages[index];
    uint64_t at = sequence % QL_MARKS_MESSAGES;
    page->bits[at / 64] |= UINT64_C(1) << (at % 64);
    if (++page->set < QL_MARKS_MESSAGES) return;
    free(page);
    marks->pages[index] = &full_page;
    if (index == 0) marks_trim(marks);
}

enum q_err
ql_marks_fill(struct ql_marks *marks, uint64_t first, uint64_t end)
{
    Q_TRY(ql_marks_reserve(marks, first));
    for (uint64_t number = first / QL_MARKS_MESSAGES; number < end / QL_MARKS_MESSAGES; number++) {
        if (number < marks->first) continue;
        uint64_t index = number - marks->first;
        if (index == marks->count) {
            Q_TRY(marks_need_place(marks));
            marks->count++;
        } else if (marks->pages[index] != &full_page) {
            free(marks->pages[index]);
        }
        marks->pages[index] = &full_page;
    }
    marks_trim(marks);
    return Q_OK;
}

enum q_err
ql_marks_clear(struct ql_marks *marks, uint64_t sequence)
{
    if (!ql_marks_has(marks, sequence)) return Q_OK;
    uint64_t number = sequence / QL_MARKS_MESSAGES;
    if (number < marks->first) {
        /* Pages that were let go come back as full ones. */
        uint32_t more = (uint32_t)(marks->first - number);
        struct ql_marks_page **pages =
            realloc(marks->pages, (marks->count + more) * sizeof(pages[0]));
        if (pages == NULL) return Q_FAIL(Q_E_NOMEM, .what = "marks of delayed messages");
        memmove(pages + more, pages, marks->count * sizeof(pages[0]));
        for (uint32_t i = 0; i < more; i++)
            pages[i] = &full_page;
        marks->pages = pages;
        marks->count += more;
        marks->capacity = marks->count;
        marks->first = number;
    }
    uint32_t index = (uint32_t)(number - marks->first);
    if (marks->pages[index] == &full_page) {
        struct ql_marks_page *page = malloc(sizeof(*page));
        if (page == NULL) return Q_FAIL(Q_E_NOMEM, .what = "marks of delayed messages");
        memset(page->bits, 0xff, sizeof(page->bits));
        page->set = QL_MARKS_MESSAGES;
        marks->pages[index] = page;
    }
    uint64_t at = sequence % QL_MARKS_MESSAGES;
    marks->pages[index]->bits[at / 64] &= ~(UINT64_C(1) << (at % 64));
    marks->pages[index]->set--;
    return Q_OK;
}

bool
ql_marks_has_all(const struct ql_marks *marks, uint64_t sequence, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (!ql_marks_has(marks, sequence + i)) return false;
    return true;
}

uint64_t
ql_marks_count_unset(const struct ql_marks *marks, uint64_t from, uint64_t end)
{
    uint64_t unset = 0;
    while (from < end) {
        uint64_t number = from / QL_MARKS_MESSAGES;
        uint64_t stop = q_min_u64(end, (number + 1) * QL_MARKS_MESSAGES);
        bool here = number >= marks->first && number - marks->first < marks->count;
        const struct ql_marks_page *page = here ? marks->pages[number - marks->first] : &full_page;
        if (page == &full_page) {
            from = stop;
        } else if (stop - from == QL_MARKS_MESSAGES) {
            unset += QL_MARKS_MESSAGES - page->set;
            from = stop;
        } else {
            uint64_t at = from % QL_MARKS_MESSAGES;
            unset += (page->bits[at / 64] >> (at % 64) & 1) == 0;
            from++;
        }
    }
    return unset;
}

bool
ql_marks_bits(const struct ql_marks *marks, uint64_t number, uint64_t ret_bits[QL_MARKS_WORDS])
{
    Q_ASSERT(number >= marks->first && number - marks->first < marks->count);
    const struct ql_marks_page *page = marks->pages[number - marks->first];
    if (page == &full_page)
        memset(ret_bits, 0xff, QL_MARKS_WORDS * sizeof(ret_bits[0]));
    else
        memcpy(ret_bits, page->bits, sizeof(page->bits));
    return page == &full_page || page->set > 0;
}

bool
ql_marks_is_full(const struct ql_marks *marks, uint64_t number)
{
    Q_ASSERT(number >= marks->first && number - marks->first < marks->count);
    return marks->pages[number - marks->first] == &full_page;
}

void
ql_marks_free(struct ql_marks *marks)
{
    for (uint32_t i = 0; i < marks->count; i++)
        if (marks->pages[i] != &full_page) free(marks->pages[i]);
    free(marks->pages);
    *marks = (struct ql_marks){ 0 };
}
