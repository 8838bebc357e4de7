/* Faults at file operations, for tests/torture. Loaded with LD_PRELOAD; the program under test knows nothing of it.
 *
 * Counts the operations that change files below MAE_FAULT_DIR: open for writing, write, fsync, ftruncate, rename, symlink,
 * unlink, mkdir. At operation number MAE_FAULT_AT it does what MAE_FAULT says:
 *
 *   count           nothing; the number of operations is written to MAE_FAULT_COUNT at exit
 *   kill            SIGKILL before the operation
 *   kill-half       SIGKILL after half of the bytes of a write; before any other operation
 *   ENOSPC|EIO|EROFS  the operation fails, and with MAE_FAULT_STICKY=1 every later one too; ENOSPC writes half first
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_FD = 65536 };

static atomic_long operations;
static atomic_bool watched[MAX_FD];
static long fault_at = -1;
static int fault_errno, kills, halves, sticky, active;
static char directory[PATH_MAX];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
    const char *where = getenv("MAE_FAULT_DIR"), *what = getenv("MAE_FAULT"), *at = getenv("MAE_FAULT_AT");
    if (!where || !what || strlen(where) >= sizeof directory) return;
    strcpy(directory, where);
    active = 1;
    if (at) fault_at = atol(at);
    sticky = getenv("MAE_FAULT_STICKY") != NULL;
    if (!strcmp(what, "kill")) kills = 1;
    else if (!strcmp(what, "kill-half")) kills = halves = 1;
    else if (!strcmp(what, "ENOSPC")) fault_errno = ENOSPC, halves = 1;
    else if (!strcmp(what, "EIO")) fault_errno = EIO;
    else if (!strcmp(what, "EROFS")) fault_errno = EROFS;
    else fault_at = -1;
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("MAE_FAULT_COUNT");
    if (!active || !path) return;
    active = 0;
    FILE *out = fopen(path, "w");
    if (out) {
        fprintf(out, "%ld\n", (long)operations);
        fclose(out);
    }
}

static int below(int at, const char *path) {
    char buffer[PATH_MAX];
    if (!active || !path) return 0;
    if (path[0] != '/') {
        if (at != AT_FDCWD || !getcwd(buffer, sizeof buffer)) return 0;
        if (strlen(buffer) + strlen(path) + 2 > sizeof buffer) return 0;
        strcat(strcat(buffer, "/"), path);
        path = buffer;
    }
    return !strncmp(path, directory, strlen(directory));
}

/* Counts an operation. 1: it must fail with errno as set here. 2: write half of it, then fail or die. */
static int fault(int is_write) {
    long number = ++operations;
    if (fault_at < 0 || number < fault_at || (number > fault_at && !sticky)) return 0;
    if (is_write && halves && number == fault_at) return 2;
    if (kills) kill(getpid(), SIGKILL);
    errno = fault_errno;
    return 1;
}

static ssize_t half_written(int fd, const void *bytes, size_t length) {
    ssize_t written = length > 1 ? REAL(write)(fd, bytes, length / 2) : 0;
    if (kills) kill(getpid(), SIGKILL);
    if (written > 0) return written; /* the rest fails, as on a disk that fills */
    errno = fault_errno;
    return -1;
}

static int writes(int flags) { return (flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0; }

static int opened(int fd, int tracked) {
    if (fd >= 0 && fd < MAX_FD) watched[fd] = tracked;
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list list; \
        va_start(list, flags); \
        mode = va_arg(list, mode_t); \
        va_end(list); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) \
        int tracked = writes(flags) && below(AT_FDCWD, path); \
        if (tracked && fault(0)) return -1; \
        return opened(REAL(name)(path, flags, mode), tracked); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        MODE(flags) \
        int tracked = writes(flags) && below(at, path); \
        if (tracked && fault(0)) return -1; \
        return opened(REAL(name)(at, path, flags, mode), tracked); \
    }
OPENAT(openat)
OPENAT(openat64)

static int is_watched(int fd) { return fd >= 0 && fd < MAX_FD && watched[fd]; }

/* Folders are opened to read, and flushed too. */
static int is_below(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return below(AT_FDCWD, path);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    if (is_watched(fd)) {
        int found = fault(1);
        if (found == 2) return half_written(fd, bytes, length);
        if (found) return -1;
    }
    return REAL(write)(fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (is_watched(fd) && count > 0) {
        int found = fault(1);
        if (found == 2) return half_written(fd, parts[0].iov_base, parts[0].iov_len);
        if (found) return -1;
    }
    return REAL(writev)(fd, parts, count);
}

#define ON_FD(name, signature, call) \
    int name signature { \
        if (is_watched(fd) && fault(0)) return -1; \
        return REAL(name) call; \
    }
int fsync(int fd) {
    if ((is_watched(fd) || is_below(fd)) && fault(0)) return -1;
    return REAL(fsync)(fd);
}
ON_FD(fdatasync, (int fd), (fd))
ON_FD(ftruncate, (int fd, off_t length), (fd, length))
ON_FD(ftruncate64, (int fd, off64_t length), (fd, length))

#define ON_PATH(name, signature, at, path, call) \
    int name signature { \
        if (below(at, path) && fault(0)) return -1; \
        return REAL(name) call; \
    }
ON_PATH(rename, (const char *from, const char *to), AT_FDCWD, to, (from, to))
ON_PATH(renameat, (int a, const char *from, int b, const char *to), b, to, (a, from, b, to))
ON_PATH(renameat2, (int a, const char *from, int b, const char *to, unsigned flags), b, to, (a, from, b, to, flags))
ON_PATH(symlink, (const char *target, const char *path), AT_FDCWD, path, (target, path))
ON_PATH(symlinkat, (const char *target, int at, const char *path), at, path, (target, at, path))
ON_PATH(unlink, (const char *path), AT_FDCWD, path, (path))
ON_PATH(unlinkat, (int at, const char *path, int flags), at, path, (at, path, flags))
ON_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, (path, mode))

int close(int fd) {
    if (fd >= 0 && fd < MAX_FD) watched[fd] = 0;
    return REAL(close)(fd);
}
