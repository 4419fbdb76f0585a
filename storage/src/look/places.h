/*
 * look/places.h: which parts of a message log have to be read to find something, by its index files.
 *
 * Frames that can't hold what is wanted are left out; what no index file covers, or one that is
 * damaged, or whose segment has damage, is in. So reading the places gives what reading the whole log
 * gives, but for damage that lies elsewhere.
 *
 * Thread: one. Blocking: it maps files. Memory: 16 bytes for each place, freed by ql_places_fini().
 */
#ifndef QL_LOOK_PLACES_H
#define QL_LOOK_PLACES_H

#include "log/index_files.h"
#include "segment/home.h"

/* Zeroed but for the two ends, it is everything. */
struct ql_places_wanted {
    uint64_t since_ms; /* stored at this time or later */
    bool one_subject;  /* then: */
    uint32_t subject_id;
    bool one_key; /* then: */
    uint64_t key_hash;
    uint64_t from; /* sequences, inclusive */
    uint64_t to;   /* UINT64_MAX: no end */
};

/* Frames of [from, to). */
struct ql_place_range {
    uint64_t from;
    uint64_t to; /* UINT64_MAX: to the end of the log */
};

struct ql_places {
    struct ql_place_range *places; /* in the order of the log; none lies in another */
    uint32_t count;
    uint32_t capacity;
    uint32_t segments;
    uint32_t
        unindexed; /* of them, that are to be read because they have no index file that is good */
};

/* `home` was opened to read. Q_OK, Q_E_NOMEM, Q_E_*: the files can't be looked at now. */
Q_MUST_CHECK enum q_err ql_places_find(
    struct ql_home *home, const struct ql_places_wanted *wanted, struct ql_places *ret_places);
void ql_places_fini(struct ql_places *places);

#endif /* QL_LOOK_PLACES_H */
