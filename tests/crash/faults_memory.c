/*
 * faults_memory.c: malloc and its kin, of which one call fails. Linked with --wrap.
 */
#include "faults.h"

#include <errno.h>
#include <sys/mman.h>

static struct {
    uint64_t number; /* 0: not armed */
    uint64_t calls;
    int paused;
    bool fired;
} memory;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_mmap(void *at, size_t size, int protection, int flags, int file, off_t offset);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int file, off_t offset);

void
fault_memory_arm(uint64_t number)
{
    memory.number = number;
    memory.calls = 0;
    memory.fired = false;
}

uint64_t
fault_memory_disarm(bool *ret_fired)
{
    memory.number = 0;
    *ret_fired = memory.fired;
    return memory.calls;
}

void
fault_memory_pause(int change)
{
    memory.paused += change;
}

static bool
memory_fails(void)
{
    if (memory.number == 0 || memory.paused > 0 || ++memory.calls != memory.number) return false;
    memory.fired = true;
    errno = ENOMEM;
    return true;
}

void *
__wrap_malloc(size_t size)
{
    return memory_fails() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return memory_fails() ? NULL : __real_calloc(count, size);
}

void *
__wrap_realloc(void *old, size_t size)
{
    return memory_fails() ? NULL : __real_realloc(old, size);
}

void *
__wrap_mmap(void *at, size_t size, int protection, int flags, int file, off_t offset)
{
    return memory_fails() ? MAP_FAILED : __real_mmap(at, size, protection, flags, file, offset);
}
