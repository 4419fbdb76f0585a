/*
 * log/index_files.h: the index files of a message log: found, mapped, written, thrown away.
 *
 * A file covers a segment from its base to its `end`. While a segment is written it gets files that
 * cover more and more of it, each made of the one before and the entries since, which are in memory
 * until then. A *cut* says up to where entries are to become a file next:
 *
 *   waiting   until the log is durable up to it, and the action log names its subjects durably
 *   built     by the worker: the bytes of the whole file
 *   written   body, flush, header, flush: a header that is there means a whole file
 *   adopted   it is mapped; the file before it and the entries in memory go
 *
 * Files are derived. One that can't be written is tried again later. One that is damaged is *mended*:
 * made again from its segment, which takes as long as reading that. While a store runs, the worker
 * does it, before all cuts, and what is in the file can't be told meanwhile; at a start, and where the
 * worker has no thread, it is done at once.
 *
 * Thread: the store's. Blocking: _open(), _view() (it maps), _flush(), _rebuild() at a start.
 */
#ifndef QL_LOG_INDEX_FILES_H
#define QL_LOG_INDEX_FILES_H

#include "io/transfer.h"
#include "log/index_worker.h"
#include "segment/log.h"

struct ql_index_file {
    struct ql_index_view view; /* view.file: mapped, or `memory`; NULL: not yet */
    uint32_t number;           /* in its name */
    uint8_t *memory;           /* it is not on the disk: these are the bytes */
};

struct ql_index_cut {
    struct ql_index_header header; /* without counts */
    uint64_t number_end;           /* of entries */
    bool placed;                   /* what names its subjects has a place in the action log, */
    uint64_t named;                /* which has to be durable up to here */
};

enum ql_index_step {
    QL_INDEX_IDLE,
    QL_INDEX_BUILDING,
    QL_INDEX_BODY,
    QL_INDEX_BODY_FLUSH,
    QL_INDEX_HEAD,
    QL_INDEX_WRITTEN,
    QL_INDEX_FAILED,
};

struct ql_index_files {
    struct ql_log *log;
    const struct ql_log *actions; /* NULL: nothing has to be named */
    struct ql_index_file **files; /* by base */
    uint32_t count;
    uint32_t capacity;
    uint32_t number_next;

    /* Records of the action log that name a subject for the first time. */
    uint32_t names_queued;
    uint64_t names_end; /* the last one that is not queued any more lies below */

    struct ql_index_cut *cuts; /* in the order of the log */
    uint32_t cut_count;
    uint32_t cut_capacity;

    /* The file that is being made: of the first cuts, all of one segment. */
    enum ql_index_step step;
    struct ql_index_worker worker;
    struct ql_index_build build;
    uint32_t build_cuts;
    struct ql_node **build_chunks;
    struct ql_key_row **build_key_chunks;
    bool abandoned; /* its segment is gone */
    bool beside;    /* mending is the worker's: the store runs */
    uint64_t mend;  /* base of the file that is to be mended; UINT64_MAX: none */
    uint64_t mend_retry_ns;
    int file;
    uint32_t number;
    uint64_t moved;
    struct ql_transfer transfer;
    uint64_t retry_ns;
    unsigned map_failures; /* of the file before, one after the other */

    /* Files of segments that are gone, to be removed a few in a turn. */
    uint32_t *doomed;
    uint32_t doomed_count;
    uint32_t doomed_capacity;
};

void ql_index_files_init(
    struct ql_index_files *files, struct ql_log *log, const struct ql_log *actions, bool threaded);
/* Waits for what is under way. */
void ql_index_files_fini(struct ql_index_files *files);

/* Read the headers of all files; those that fit no segment are thrown away. */
Q_MUST_CHECK enum q_err ql_index_files_open(struct ql_index_files *files);
/* Of the segment with this base; NULL: none. */
struct ql_index_file *ql_index_files_of(const struct ql_index_files *files, uint64_t base);
/* Number of the first file whose base is at or above; may be `count`. */
uint32_t ql_index_files_from(const struct ql_index_files *files, uint64_t base);
/* It is on the disk still. */
bool ql_index_files_has(const struct ql_index_files *files, const struct ql_index_file *file);
/* Its bytes can be looked at. Q_OK; Q_E_CORRUPT: they are not there; failures to map them now. */
Q_MUST_CHECK enum q_err ql_index_files_view(
    struct ql_index_files *files, struct ql_index_file *file);
/* Throw it away. `why` is told; NULL: as it should be. */
void ql_index_files_drop(struct ql_index_files *files, struct ql_index_file *file, const char *why);
/*
 * A file is damaged: make it again from its segment. Q_OK; Q_E_NOT_NOW: it is being made; Q_E_IO,
 * Q_E_NOMEM: it can't be made now, and stays; Q_E_CORRUPT: its segment is gone.
 */
Q_MUST_CHECK enum q_err ql_index_files_rebuild(
    struct ql_index_files *files, struct ql_index_file *file);
/* A record that names a subject is queued for the action log, and has its place there. */
void ql_index_files_name_queued(struct ql_index_files *files);
void ql_index_files_name_placed(struct ql_index_files *files, uint64_t frame);
/* Segments below are gone. */
void ql_index_files_trim(struct ql_index_files *files, uint64_t first);

/* Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_index_files_cut(
    struct ql_index_files *files, const struct ql_index_header *header, uint64_t number_end);
/*
 * One step: begin what is due, adopt what is written. `entries` below what became a file are dropped.
 * `patient` false: no matter what has to be durable before, or when it failed last.
 */
void ql_index_files_step(
    struct ql_index_files *files, struct ql_entries *entries, uint64_t now_ns, bool patient);
/* Make files of all cuts now. One that can't be written stays a cut. */
void ql_index_files_flush(struct ql_index_files *files, struct ql_entries *entries);

#endif /* QL_LOG_INDEX_FILES_H */
