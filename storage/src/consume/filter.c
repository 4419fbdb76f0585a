#include "consume/filter.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

static bool filter_holds(const struct qbatch_filter *filter, const struct qbatch_filter *tags);

void
ql_filters_fini(struct ql_filters *filters)
{
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        if (filters->slots[i] != NULL) ql_filters_drop(filters, i);
}

uint32_t
ql_filters_find(const struct ql_filters *filters, const struct qbatch_filter *wanted)
{
    uint32_t free_slot = QLOG_FILTERS_MAX;
    for (uint32_t i = QLOG_FILTERS_MAX; i-- > 0;) {
        if (filters->slots[i] == NULL)
            free_slot = i;
        else if (ql_filter_equal(&filters->slots[i]->filter, wanted))
            return i;
    }
    return free_slot;
}

enum q_err
ql_filters_set(struct ql_filters *filters, const struct ql_filter_item *item)
{
    Q_ASSERT(item->slot < QLOG_FILTERS_MAX);
    const struct ql_filter *known = filters->slots[item->slot];
    if (known != NULL && ql_filter_equal(&known->filter, &item->filter)) return Q_OK;
    if (known != NULL) return Q_FAIL(Q_E_CORRUPT, .what = "two filters of a group in one place");
    size_t text_size = 1;
    for (uint32_t i = 0; i < item->filter.tag_count; i++)
        text_size += item->filter.tags[i].size;
    struct ql_filter *filter = calloc(1, sizeof(*filter));
    char *text = calloc(1, text_size);
    if (filter == NULL || text == NULL) {
        free(filter);
        free(text);
        return Q_FAIL(Q_E_NOMEM, .what = "filter of a group");
    }
    ql_room_change(filters->room, 0, sizeof(*filter) + text_size);
    filter->text = text;
    filter->text_size = (uint32_t)text_size;
    filter->filter = item->filter;
    for (uint32_t i = 0; i < item->filter.tag_count; i++) {
        struct q_bytes tag = item->filter.tags[i];
        memcpy(text, tag.data, tag.size);
        filter->filter.tags[i] = q_bytes_from(text, tag.size);
        text += tag.size;
    }
    filters->slots[item->slot] = filter;
    filters->count++;
    return Q_OK;
}

void
ql_filters_drop(struct ql_filters *filters, uint32_t slot)
{
    ql_room_change(filters->room, sizeof(struct ql_filter) + filters->slots[slot]->text_size, 0);
    free(filters->slots[slot]->text);
    free(filters->slots[slot]);
    filters->slots[slot] = NULL;
    filters->count--;
}

uint16_t
ql_filters_kept(const struct ql_filters *filters)
{
    unsigned bits = 0;
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        if (filters->slots[i] != NULL) bits |= 1u << i;
    return (uint16_t)bits;
}

uint16_t
ql_filters_live(const struct ql_filters *filters)
{
    unsigned bits = 0;
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        if (filters->slots[i] != NULL && filters->slots[i]->members > 0) bits |= 1u << i;
    return (uint16_t)bits;
}

bool
ql_filters_take_all(const struct ql_filters *filters)
{
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        if (filters->slots[i] != NULL && filters->slots[i]->filter.tag_count == 0) return true;
    return false;
}

bool
ql_filter_equal(const struct qbatch_filter *a, const struct qbatch_filter *b)
{
    /* With one tag or none, any-of and all-of are the same. */
    if (a->tag_count > 1 && b->tag_count > 1 && a->mode != b->mode) return false;
    return filter_holds(a, b) && filter_holds(b, a);
}

static bool
filter_holds(const struct qbatch_filter *filter, const struct qbatch_filter *tags)
{
    for (uint32_t i = 0; i < tags->tag_count; i++) {
        bool found = false;
        for (uint32_t j = 0; j < filter->tag_count && !found; j++)
            found = q_bytes_equal(tags->tags[i], filter->tags[j]);
        if (!found) return false;
    }
    return true;
}
