/*
 * media.h: what a simulated machine holds when it stops.
 *
 * The durable bytes, size and name of every file, and the effects that no flush has covered yet.
 * Events move it on; a crash decides which effects survive. It has no view of "now": what a running
 * program sees is the simulated disk's (simdisk.h), which records the events.
 *
 *   a write      is pending from submit on; durable when it was submitted durable and completes, or
 *                when a flush of its file completes that was submitted after its completion
 *   a size       is pending until a flush or a durable write of its file completes
 *   a name       is pending until its directory is flushed
 *
 * A durable write carries its own bytes and the file's size, and nothing else: disks with a
 * write-through command flush no more than that.
 */
#ifndef TESTS_CRASH_MEDIA_H
#define TESTS_CRASH_MEDIA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MEDIA_SECTOR = 512,
    MEDIA_PATH_MAX = 64,
    MEDIA_RANDOM_SUBSETS = 8
};

enum {
    MEDIA_NOTHING = -1, /* no such name */
    MEDIA_DIRECTORY = -2
};

#define MEDIA_NEVER UINT64_MAX

/* What survives. The process alone stops, or the machine loses power. */
enum crash_kind {
    CRASH_KILL_NONE,   /* process: what completed is there, what was under way is not */
    CRASH_KILL_ALL,    /* process: what was under way happened all the same */
    CRASH_KILL_RANDOM, /* process: some of what was under way happened, some in part */
    CRASH_NONE,        /* power: nothing pending */
    CRASH_ALL,         /* power: everything */
    CRASH_META,        /* power: sizes and names without contents */
    CRASH_DATA,        /* power: contents without sizes and names */
    CRASH_DROP,        /* power: all but one effect */
    CRASH_KEEP,        /* power: one effect */
    CRASH_RANDOM,      /* power: a random subset of the effects */
    CRASH_SECTORS,     /* power: a random subset of the sectors */
    CRASH_TORN,        /* power: of the last write only the first `index` sectors */
};

struct crash_rule {
    enum crash_kind kind;
    unsigned index;
    uint64_t seed;
};

static inline bool
crash_is_kill(const struct crash_rule *rule)
{
    return rule->kind <= CRASH_KILL_RANDOM;
}

/* "drop-3" */
const char *crash_rule_text(const struct crash_rule *rule, char *out, size_t out_size);

enum media_event_kind {
    MEDIA_NAMED,   /* path -> target: created or removed */
    MEDIA_SYNCED,  /* the names in directory `path` are durable */
    MEDIA_SIZED,   /* file, size */
    MEDIA_WRITE,   /* submitted: file, at, length, data */
    MEDIA_WRITTEN, /* completed: begun, durable */
    MEDIA_FLUSHED, /* completed: file, begun */
    MEDIA_CRASHED, /* rule */
    MEDIA_PASSED,  /* nothing: a flush was submitted */
};

struct media_event {
    enum media_event_kind kind;
    char path[MEDIA_PATH_MAX];
    int target;
    unsigned file;
    uint64_t begun; /* number of the event that submitted it */
    bool durable;
    uint64_t size;
    uint64_t at;
    uint32_t length;
    uint8_t *data; /* owned by the event's trace */
    struct crash_rule rule;
};

struct media_file {
    uint8_t *data;
    uint64_t size;
};

struct media_name {
    char path[MEDIA_PATH_MAX];
    int target; /* file, or MEDIA_* */
};

enum media_effect_kind {
    EFFECT_WRITE,
    EFFECT_SIZE,
    EFFECT_NAME
};

struct media_effect {
    enum media_effect_kind kind;
    uint64_t born;     /* number of its event */
    uint64_t complete; /* likewise; MEDIA_NEVER: under way */
    unsigned file;
    uint64_t at;
    uint32_t length;
    const uint8_t *data;
    bool zeros;    /* nothing but zeros */
    uint8_t *gone; /* per sector: durable already, or overwritten by what is; NULL: none */
    uint64_t size;
    unsigned name;
    int target;
};

struct media {
    uint64_t events; /* applied so far */
    struct media_file *files;
    unsigned file_count;
    struct media_name *names;
    unsigned name_count;
    struct media_effect *effects; /* pending, by `born` */
    unsigned effect_count;
    unsigned effect_capacity;
};

/* Nothing but the root directory "/". */
struct media *media_new(void);
struct media *media_clone(const struct media *media);
void media_free(struct media *media);

/* The data of writes must outlive `media` and its clones, until they are durable. */
void media_apply(struct media *media, const struct media_event *event);
/* After a power loss nothing is pending. Afterwards the event count starts at 0 if `fresh`. */
void media_crash(struct media *media, const struct crash_rule *rule, bool fresh);

/* Rules that make a difference at this point: 0 … count - 1. */
unsigned media_rule_count(const struct media *media);
struct crash_rule media_rule(const struct media *media, unsigned number, uint64_t seed);

/* What a program sees: durable, and what completed. Memory of exactly `*ret_size` is the caller's. */
uint8_t *media_read(const struct media *media, unsigned file, uint64_t *ret_size);
/* What the name stands for, completed changes included. */
int media_target(const struct media *media, unsigned name);
/* Whether `path` lies in `directory`, and not deeper. */
bool media_is_in(const char *path, const char *directory);

#endif /* TESTS_CRASH_MEDIA_H */
