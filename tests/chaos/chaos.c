/* A PKCS#11 module that wraps another one and, told by a file, misbehaves.

   CHAOS_MODULE  path of the module behind it
   CHAOS_FILE    what to do, read again whenever it has changed; empty or missing: nothing
   CHAOS_LOG     a file to which the name of every function called is appended, a line each; unset: none

   A line of CHAOS_FILE names a function, or * for all but C_GetFunctionList, and what happens to it:

     C_Encrypt delay=0.05        sleeps so many seconds first
     C_Encrypt grow=0.01         sleeps so much longer at each call
     C_Encrypt rv=0x30           is not done and returns CKR_DEVICE_ERROR
     C_GenerateKey rv=0x5 done   is done, and yet returns CKR_GENERAL_ERROR
     C_Sign rv=0x30 after=2      lets two calls go well first
     C_Sign rv=0x30 count=1      happens once, later calls go well
     C_Encrypt hang              comes back when the file changes, not before
     C_Encrypt print=3           writes three lines to stdout and three to stderr first
     C_Encrypt crash             kills the process with SIGSEGV
     C_GenerateKey kill          kills the process with SIGKILL
     C_GenerateKey kill done     is done, and then kills the process with SIGKILL
     C_Decrypt flip              is done, and the first byte of what it returns is changed; C_Encrypt, C_Sign, too
     C_Encrypt short             is done, and a byte less is returned; C_Decrypt, too
     C_FindObjects twice         is done, and gives each object twice, but in a process that began before that was told
     C_GenerateRandom zero       is done, and gives nothing but zeros
     C_Encrypt rv=0x101 until=C_Login  happens until this process calls the other function
     C_EncryptInit logout once   the user is logged out first, as after an idle time; once in all processes
     C_EncryptInit close once    all sessions of the token are closed first, as by a device's own timeout
     sessions 3                  each process has at most three sessions, CKR_SESSION_COUNT
     sessions 3 shared           all processes together have
     slots broken                C_GetSlotInfo of slots without an initialised token is CKR_DEVICE_ERROR
     slots shift=7               slot ids are the real ones plus seven
     attribute 0x161 absent      C_GetAttributeValue does not give this attribute, as the standard has it
     attribute 0x161 stops       and leaves those behind it as they are
     gcm-iv appended             AES-GCM as by an HSM in FIPS mode: the caller's IV for C_EncryptInit is ignored,
                                 the token's own, 16 bytes, is put behind the tag
     gcm-iv demanded             the same, and an IV given to C_EncryptInit is refused
     gcm-iv stuck                as appended, and the token's own is always the same
     gcm-iv zero                 AES-GCM as by AWS CloudHSM: C_EncryptInit takes 12 zero bytes of IV only, and the token
                                 writes its own into the caller's buffer, in C_Encrypt
     gcm-iv zero early           the same, written in C_EncryptInit
     gcm-iv zero stuck           the same, and it is always the same one
     gcm-iv zero untold          the same, and it is not written
     gcm-iv written              as zero, but whatever the caller gives is taken
     gcm refused                 AES-GCM is listed, and C_EncryptInit and C_DecryptInit return CKR_MECHANISM_INVALID for it

   The last line that fits a function counts. Types are those of PKCS#11 on Linux: CK_ULONG is unsigned long, and all
   structures are passed on unseen but CK_MECHANISM and CK_GCM_PARAMS. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long U;
typedef unsigned char B;
typedef void *P;

#define CKR_OK 0x000UL
#define CKR_GENERAL_ERROR 0x005UL
#define CKR_ATTRIBUTE_TYPE_INVALID 0x012UL
#define CKR_DEVICE_ERROR 0x030UL
#define CKR_SESSION_COUNT 0x0B1UL
#define CKF_TOKEN_INITIALIZED 0x400UL
#define UNAVAILABLE (~0UL)
#define TOKEN_FLAGS 96
#define TOKEN_COUNTS 104
#define CKR_MECHANISM_INVALID 0x070UL
#define CKR_MECHANISM_PARAM_INVALID 0x071UL
#define CKR_BUFFER_TOO_SMALL 0x150UL
#define CKM_AES_GCM 0x1087UL
#define IV_BYTES 16
#define CALLERS_IV_BYTES 12
#define RULES 32
#define SESSIONS 256

#define FUNCTIONS(F, S) \
  F(C_Initialize, (P a), (a)) \
  S(C_Finalize, (P a), (a)) \
  F(C_GetInfo, (P a), (a)) \
  S(C_GetFunctionList, (P a), (a)) \
  S(C_GetSlotList, (B a, P b, P c), (a, b, c)) \
  S(C_GetSlotInfo, (U a, P b), (a, b)) \
  S(C_GetTokenInfo, (U a, P b), (a, b)) \
  S(C_GetMechanismList, (U a, P b, P c), (a, b, c)) \
  S(C_GetMechanismInfo, (U a, U b, P c), (a, b, c)) \
  S(C_InitToken, (U a, P b, U c, P d), (a, b, c, d)) \
  F(C_InitPIN, (U a, P b, U c), (a, b, c)) \
  F(C_SetPIN, (U a, P b, U c, P d, U e), (a, b, c, d, e)) \
  S(C_OpenSession, (U a, U b, P c, P d, P e), (a, b, c, d, e)) \
  S(C_CloseSession, (U a), (a)) \
  S(C_CloseAllSessions, (U a), (a)) \
  F(C_GetSessionInfo, (U a, P b), (a, b)) \
  F(C_GetOperationState, (U a, P b, P c), (a, b, c)) \
  F(C_SetOperationState, (U a, P b, U c, U d, U e), (a, b, c, d, e)) \
  F(C_Login, (U a, U b, P c, U d), (a, b, c, d)) \
  F(C_Logout, (U a), (a)) \
  F(C_CreateObject, (U a, P b, U c, P d), (a, b, c, d)) \
  F(C_CopyObject, (U a, U b, P c, U d, P e), (a, b, c, d, e)) \
  F(C_DestroyObject, (U a, U b), (a, b)) \
  F(C_GetObjectSize, (U a, U b, P c), (a, b, c)) \
  S(C_GetAttributeValue, (U a, U b, P c, U d), (a, b, c, d)) \
  F(C_SetAttributeValue, (U a, U b, P c, U d), (a, b, c, d)) \
  F(C_FindObjectsInit, (U a, P b, U c), (a, b, c)) \
  S(C_FindObjects, (U a, P b, U c, P d), (a, b, c, d)) \
  F(C_FindObjectsFinal, (U a), (a)) \
  S(C_EncryptInit, (U a, P b, U c), (a, b, c)) \
  S(C_Encrypt, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_EncryptUpdate, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_EncryptFinal, (U a, P b, P c), (a, b, c)) \
  S(C_DecryptInit, (U a, P b, U c), (a, b, c)) \
  S(C_Decrypt, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_DecryptUpdate, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_DecryptFinal, (U a, P b, P c), (a, b, c)) \
  F(C_DigestInit, (U a, P b), (a, b)) \
  F(C_Digest, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_DigestUpdate, (U a, P b, U c), (a, b, c)) \
  F(C_DigestKey, (U a, U b), (a, b)) \
  F(C_DigestFinal, (U a, P b, P c), (a, b, c)) \
  F(C_SignInit, (U a, P b, U c), (a, b, c)) \
  S(C_Sign, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_SignUpdate, (U a, P b, U c), (a, b, c)) \
  F(C_SignFinal, (U a, P b, P c), (a, b, c)) \
  F(C_SignRecoverInit, (U a, P b, U c), (a, b, c)) \
  F(C_SignRecover, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_VerifyInit, (U a, P b, U c), (a, b, c)) \
  F(C_Verify, (U a, P b, U c, P d, U e), (a, b, c, d, e)) \
  F(C_VerifyUpdate, (U a, P b, U c), (a, b, c)) \
  F(C_VerifyFinal, (U a, P b, U c), (a, b, c)) \
  F(C_VerifyRecoverInit, (U a, P b, U c), (a, b, c)) \
  F(C_VerifyRecover, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_DigestEncryptUpdate, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_DecryptDigestUpdate, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_SignEncryptUpdate, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_DecryptVerifyUpdate, (U a, P b, U c, P d, P e), (a, b, c, d, e)) \
  F(C_GenerateKey, (U a, P b, P c, U d, P e), (a, b, c, d, e)) \
  F(C_GenerateKeyPair, (U a, P b, P c, U d, P e, U f, P g, P h), (a, b, c, d, e, f, g, h)) \
  F(C_WrapKey, (U a, P b, U c, U d, P e, P f), (a, b, c, d, e, f)) \
  F(C_UnwrapKey, (U a, P b, U c, P d, U e, P f, U g, P h), (a, b, c, d, e, f, g, h)) \
  F(C_DeriveKey, (U a, P b, U c, P d, U e, P f), (a, b, c, d, e, f)) \
  F(C_SeedRandom, (U a, P b, U c), (a, b, c)) \
  S(C_GenerateRandom, (U a, P b, U c), (a, b, c)) \
  F(C_GetFunctionStatus, (U a), (a)) \
  F(C_CancelFunction, (U a), (a)) \
  F(C_WaitForSlotEvent, (U a, P b, P c), (a, b, c))

struct functions {
  B major, minor;
#define MEMBER(name, parameters, arguments) U (*name) parameters;
  FUNCTIONS(MEMBER, MEMBER)
};

struct mechanism {
  U mechanism;
  P parameter;
  U length;
};

struct gcm {
  B *iv;
  U iv_bytes, iv_bits;
  B *aad;
  U aad_bytes, tag_bits;
};

struct rule {
  char name[40], until[40];
  double delay, grow;
  U rv;
  long after, count, print;
  int fails, done, hang, crash, kill, parent, flip, zero, less, logout, close, once, twice;
};

enum iv { IV_OF_CALLER, IV_APPENDED, IV_DEMANDED, IV_STUCK, IV_WRITTEN };

/* All that CHAOS_FILE says beside the rules. */
static struct {
  enum iv gcm_iv;
  int gcm_refused, iv_zero, iv_early, iv_stuck, iv_untold;
  long sessions;
  int shared, slots_broken;
  U shift, attribute;
  int attribute_stops;
} said;

static struct functions *real;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rule rules[RULES];
static int rule_count;
static struct stat seen, seen_first;
static int ever_seen;
static long open_sessions;
static U last_session, last_slot;

/* An encryption that has begun, and the IV that was chosen for it. */
static struct { U session; int active; B iv[IV_BYTES]; B *write_to; } begun[SESSIONS];

/* Locks that stand for the sessions of this process on a token whose processes share them. */
static int held[SESSIONS], held_count;

static void die(struct rule what) {
  if (what.parent) kill(getppid(), SIGKILL);
  raise(SIGKILL);
}

static void parse(FILE *file) {
  char line[256];
  while (fgets(line, sizeof line, file) && rule_count < RULES) {
    char *word = strtok(line, " \t\n");
    if (!word || *word == '#') continue;
    if (!strcmp(word, "gcm-iv")) {
      word = strtok(NULL, " \t\n");
      said.gcm_iv = word && !strcmp(word, "demanded") ? IV_DEMANDED : word && !strcmp(word, "stuck") ? IV_STUCK : IV_APPENDED;
      if (word && (!strcmp(word, "zero") || !strcmp(word, "written"))) {
        said.gcm_iv = IV_WRITTEN;
        said.iv_zero = !strcmp(word, "zero");
      }
      while ((word = strtok(NULL, " \t\n"))) {
        said.iv_early |= !strcmp(word, "early");
        said.iv_stuck |= !strcmp(word, "stuck");
        said.iv_untold |= !strcmp(word, "untold");
      }
      continue;
    }
    if (!strcmp(word, "gcm")) {
      said.gcm_refused = 1;
      continue;
    }
    if (!strcmp(word, "sessions")) {
      said.sessions = strtol(strtok(NULL, " \t\n"), NULL, 0);
      said.shared = strtok(NULL, " \t\n") != NULL;
      continue;
    }
    if (!strcmp(word, "slots")) {
      word = strtok(NULL, " \t\n");
      if (!strncmp(word, "shift=", 6)) said.shift = strtoul(word + 6, NULL, 0);
      else said.slots_broken = 1;
      continue;
    }
    if (!strcmp(word, "attribute")) {
      said.attribute = strtoul(strtok(NULL, " \t\n"), NULL, 0);
      said.attribute_stops = !strcmp(strtok(NULL, " \t\n"), "stops");
      continue;
    }
    struct rule *rule = &rules[rule_count++];
    memset(rule, 0, sizeof *rule);
    rule->count = -1;
    snprintf(rule->name, sizeof rule->name, "%s", word);
    while ((word = strtok(NULL, " \t\n"))) {
      if (!strncmp(word, "delay=", 6)) rule->delay = strtod(word + 6, NULL);
      else if (!strncmp(word, "grow=", 5)) rule->grow = strtod(word + 5, NULL);
      else if (!strncmp(word, "rv=", 3)) rule->fails = 1, rule->rv = strtoul(word + 3, NULL, 0);
      else if (!strncmp(word, "after=", 6)) rule->after = strtol(word + 6, NULL, 0);
      else if (!strncmp(word, "print=", 6)) rule->print = strtol(word + 6, NULL, 0);
      else if (!strncmp(word, "count=", 6)) rule->count = strtol(word + 6, NULL, 0);
      else if (!strcmp(word, "done")) rule->done = 1;
      else if (!strcmp(word, "hang")) rule->hang = 1;
      else if (!strcmp(word, "crash")) rule->crash = 1;
      else if (!strcmp(word, "kill")) rule->kill = 1;
      else if (!strcmp(word, "parent")) rule->parent = 1;
      else if (!strcmp(word, "flip")) rule->flip = 1;
      else if (!strcmp(word, "zero")) rule->zero = 1;
      else if (!strcmp(word, "short")) rule->less = 1;
      else if (!strcmp(word, "logout")) rule->logout = 1;
      else if (!strcmp(word, "close")) rule->close = 1;
      else if (!strcmp(word, "once")) rule->once = 1;
      else if (!strcmp(word, "twice")) rule->twice = 1;
      else if (!strncmp(word, "until=", 6)) snprintf(rule->until, sizeof rule->until, "%s", word + 6);
      else {
        fprintf(stderr, "chaos: %s is not known\n", word);
        abort();
      }
    }
  }
}

/* Whether CHAOS_FILE is another one than when it was read last; the lock is held. */
static int changed(struct stat *now) {
  const char *path = getenv("CHAOS_FILE");
  memset(now, 0, sizeof *now);
  if (path) stat(path, now);
  return now->st_ino != seen.st_ino || now->st_size != seen.st_size || now->st_mtim.tv_sec != seen.st_mtim.tv_sec ||
         now->st_mtim.tv_nsec != seen.st_mtim.tv_nsec;
}

static void refresh(void) {
  struct stat now;
  int other = changed(&now);
  if (!ever_seen) seen_first = now, ever_seen = 1;
  if (!other) return;
  rule_count = 0;
  memset(&said, 0, sizeof said);
  FILE *file = fopen(getenv("CHAOS_FILE") ? getenv("CHAOS_FILE") : "", "re");
  if (file) {
    parse(file);
    fclose(file);
  }
  seen = now;
}

static void log_call(const char *name) {
  const char *path = getenv("CHAOS_LOG");
  if (!path) return;
  char line[64];
  int size = snprintf(line, sizeof line, "%s\n", name);
  int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (file >= 0) {
    if (write(file, line, size) != size) abort();
    close(file);
  }
}

static void pause_for(double seconds) {
  struct timespec time = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
  nanosleep(&time, NULL);
}

/* Whether no process has come here since CHAOS_FILE was written; the lock is held. */
static int first_of_all(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s.once", getenv("CHAOS_FILE"));
  int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return 0;
  close(file);
  return 1;
}

/* What is to happen to this call; all zero: nothing. What comes before the call has happened already. */
static struct rule chaos(const char *name) {
  struct rule found = {0};
  struct stat now;
  log_call(name);
  pthread_mutex_lock(&lock);
  refresh();
  for (int i = 0; i < rule_count; i++)
    if (!strcmp(rules[i].until, name)) rules[i].count = 0;
  for (int i = rule_count - 1; i >= 0; i--) {
    struct rule *rule = &rules[i];
    if (strcmp(rule->name, name) && strcmp(rule->name, "*")) continue;
    if (rule->after > 0) rule->after--;
    else if (rule->count != 0 && (!rule->once || first_of_all())) {
      if (rule->count > 0) rule->count--;
      rule->delay += rule->grow;
      found = *rule;
    }
    break;
  }
  pthread_mutex_unlock(&lock);
  for (long i = 1; i <= found.print; i++) {
    printf("out %ld of %s\n", i, name);
    fflush(stdout);
    fprintf(stderr, "err %ld of %s\n", i, name);
  }
  if (found.crash) {
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
  }
  if (found.kill && !found.done) die(found);
  if (found.logout) real->C_Logout(last_session);
  if (found.close) real->C_CloseAllSessions(last_slot);
  if (found.delay > 0) pause_for(found.delay);
  for (int waiting = found.hang; waiting;) {
    pause_for(0.01);
    pthread_mutex_lock(&lock);
    waiting = !changed(&now);
    pthread_mutex_unlock(&lock);
  }
  return found;
}

/* What the caller is told after the call was made. */
static U ended(struct rule what, U rv) {
  if (what.kill) die(what);
  return what.fails ? what.rv : rv;
}

#define SLOT(slot) ((slot) - said.shift)

#define WRAP(name, parameters, arguments) \
  U name parameters { \
    struct rule what = chaos(#name); \
    if (what.fails && !what.done) return what.rv; \
    U rv = real->name arguments; \
    return ended(what, rv); \
  }
#define DECLARE(name, parameters, arguments) U name parameters;
FUNCTIONS(WRAP, DECLARE)

static int slot_of(U session) {
  int free = -1;
  for (int i = 0; i < SESSIONS; i++) {
    if (begun[i].active && begun[i].session == session) return i;
    if (!begun[i].active && free < 0) free = i;
  }
  return free;
}

U C_EncryptInit(U session, P mechanism, U key) {
  struct rule what = chaos("C_EncryptInit");
  if (what.fails && !what.done) return what.rv;
  struct mechanism *given = mechanism;
  U rv;
  if (said.gcm_refused && given->mechanism == CKM_AES_GCM) return CKR_MECHANISM_INVALID;
  if (said.gcm_iv == IV_OF_CALLER || given->mechanism != CKM_AES_GCM) {
    rv = real->C_EncryptInit(session, mechanism, key);
  } else {
    struct gcm *callers = given->parameter, params = *callers;
    int written = said.gcm_iv == IV_WRITTEN, size = written ? CALLERS_IV_BYTES : IV_BYTES;
    if (said.gcm_iv == IV_DEMANDED && params.iv_bytes) return CKR_MECHANISM_PARAM_INVALID;
    if (written && params.iv_bytes != CALLERS_IV_BYTES) return CKR_MECHANISM_PARAM_INVALID;
    for (int i = 0; said.iv_zero && i < CALLERS_IV_BYTES; i++)
      if (params.iv[i]) return CKR_MECHANISM_PARAM_INVALID;
    B iv[IV_BYTES];
    rv = real->C_GenerateRandom(session, iv, size);
    if (rv) return rv;
    if (said.gcm_iv == IV_STUCK || said.iv_stuck) memset(iv, 7, size);
    params.iv = iv;
    params.iv_bytes = size;
    params.iv_bits = size * 8;
    struct mechanism own = {CKM_AES_GCM, &params, sizeof params};
    rv = real->C_EncryptInit(session, &own, key);
    if (rv == CKR_OK && written && said.iv_early && !said.iv_untold) memcpy(callers->iv, iv, size);
    if (rv == CKR_OK && !(written && (said.iv_early || said.iv_untold))) {
      pthread_mutex_lock(&lock);
      int slot = slot_of(session);
      if (slot < 0) rv = CKR_GENERAL_ERROR;
      else {
        begun[slot].session = session;
        begun[slot].active = 1;
        begun[slot].write_to = written ? callers->iv : NULL;
        memcpy(begun[slot].iv, iv, IV_BYTES);
      }
      pthread_mutex_unlock(&lock);
    }
  }
  return ended(what, rv);
}

/* The IV that was chosen for an encryption, or NULL; and where it is to be written, if not behind the tag. */
static B *chosen(U session, B **write_to) {
  pthread_mutex_lock(&lock);
  int slot = slot_of(session);
  B *iv = slot >= 0 && begun[slot].active ? begun[slot].iv : NULL;
  *write_to = iv ? begun[slot].write_to : NULL;
  pthread_mutex_unlock(&lock);
  return iv;
}

static void forget(U session) {
  pthread_mutex_lock(&lock);
  int slot = slot_of(session);
  if (slot >= 0) begun[slot].active = 0;
  pthread_mutex_unlock(&lock);
}

static U answer(struct rule what, U rv, B *output, U *length) {
  if (what.less && rv == CKR_OK && output) --*length;
  if (what.flip && rv == CKR_OK && output) output[0] ^= 1;
  return ended(what, rv);
}

U C_Encrypt(U session, P data, U size, P output, P length) {
  struct rule what = chaos("C_Encrypt");
  if (what.fails && !what.done) return what.rv;
  B *write_to, *iv = chosen(session, &write_to);
  if (!iv || write_to) {
    U rv = real->C_Encrypt(session, data, size, output, length);
    if (rv == CKR_OK && write_to) memcpy(write_to, iv, CALLERS_IV_BYTES);
    if (write_to) forget(session);
    return answer(what, rv, output, length);
  }
  U *room = length, most = *room, needed = size + 16 + IV_BYTES;
  if (!output) {
    *room = needed;
    return CKR_OK;
  }
  if (most < needed) {
    *room = needed;
    return CKR_BUFFER_TOO_SMALL;
  }
  U rv = real->C_Encrypt(session, data, size, output, room);
  if (rv == CKR_OK) {
    memcpy((B *)output + *room, iv, IV_BYTES);
    *room += IV_BYTES;
  }
  forget(session);
  return answer(what, rv, output, room);
}

U C_DecryptInit(U session, P mechanism, U key) {
  struct rule what = chaos("C_DecryptInit");
  if (what.fails && !what.done) return what.rv;
  struct mechanism *given = mechanism;
  if (said.gcm_refused && given->mechanism == CKM_AES_GCM) return CKR_MECHANISM_INVALID;
  if (said.gcm_iv != IV_OF_CALLER && given->mechanism == CKM_AES_GCM && !((struct gcm *)given->parameter)->iv_bytes)
    return CKR_MECHANISM_PARAM_INVALID;
  U rv = real->C_DecryptInit(session, mechanism, key);
  return ended(what, rv);
}

U C_Decrypt(U session, P data, U size, P output, P length) {
  struct rule what = chaos("C_Decrypt");
  if (what.fails && !what.done) return what.rv;
  return answer(what, real->C_Decrypt(session, data, size, output, length), output, length);
}

U C_Sign(U session, P data, U size, P output, P length) {
  struct rule what = chaos("C_Sign");
  if (what.fails && !what.done) return what.rv;
  return answer(what, real->C_Sign(session, data, size, output, length), output, length);
}

U C_GenerateRandom(U session, P output, U size) {
  struct rule what = chaos("C_GenerateRandom");
  if (what.fails && !what.done) return what.rv;
  U rv = real->C_GenerateRandom(session, output, size);
  if (what.zero && rv == CKR_OK) memset(output, 0, size);
  return ended(what, rv);
}

/* Take the place of one session among those of all processes. Returns whether there was one. */
static int take_shared(void) {
  char path[4096];
  for (long i = 0; i < said.sessions; i++) {
    snprintf(path, sizeof path, "%s.session.%ld", getenv("CHAOS_FILE"), i);
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) abort();
    if (!flock(file, LOCK_EX | LOCK_NB)) {
      held[held_count++] = file;
      return 1;
    }
    close(file);
  }
  return 0;
}

static void give_back(long count) {
  pthread_mutex_lock(&lock);
  open_sessions -= count;
  for (; count > 0 && held_count; count--) close(held[--held_count]);
  pthread_mutex_unlock(&lock);
}

U C_OpenSession(U slot, U flags, P application, P notify, P session) {
  struct rule what = chaos("C_OpenSession");
  if (what.fails && !what.done) return what.rv;
  pthread_mutex_lock(&lock);
  int room = !said.sessions || (said.shared ? take_shared() : open_sessions < said.sessions);
  if (room) open_sessions++;
  pthread_mutex_unlock(&lock);
  if (!room) return CKR_SESSION_COUNT;
  U rv = real->C_OpenSession(SLOT(slot), flags, application, notify, session);
  if (rv) give_back(1);
  else {
    last_session = *(U *)session;
    last_slot = SLOT(slot);
  }
  return ended(what, rv);
}

U C_CloseSession(U session) {
  struct rule what = chaos("C_CloseSession");
  if (what.fails && !what.done) return what.rv;
  forget(session);
  U rv = real->C_CloseSession(session);
  if (rv == CKR_OK) give_back(1);
  return ended(what, rv);
}

U C_CloseAllSessions(U slot) {
  struct rule what = chaos("C_CloseAllSessions");
  if (what.fails && !what.done) return what.rv;
  U rv = real->C_CloseAllSessions(SLOT(slot));
  if (rv == CKR_OK) give_back(open_sessions);
  return ended(what, rv);
}

U C_Finalize(P reserved) {
  struct rule what = chaos("C_Finalize");
  if (what.fails && !what.done) return what.rv;
  U rv = real->C_Finalize(reserved);
  if (rv == CKR_OK) give_back(open_sessions);
  return ended(what, rv);
}

U C_GetSlotList(B present, P list, P count) {
  struct rule what = chaos("C_GetSlotList");
  if (what.fails && !what.done) return what.rv;
  U rv = real->C_GetSlotList(present, list, count);
  for (U i = 0; rv == CKR_OK && list && i < *(U *)count; i++) ((U *)list)[i] += said.shift;
  return ended(what, rv);
}

U C_GetSlotInfo(U slot, P info) {
  struct rule what = chaos("C_GetSlotInfo");
  if (what.fails && !what.done) return what.rv;
  B token[512];
  if (said.slots_broken && (real->C_GetTokenInfo(SLOT(slot), token) || !(*(U *)(token + TOKEN_FLAGS) & CKF_TOKEN_INITIALIZED)))
    return CKR_DEVICE_ERROR;
  return ended(what, real->C_GetSlotInfo(SLOT(slot), info));
}

U C_FindObjects(U session, P objects, U most, P count) {
  struct rule what = chaos("C_FindObjects");
  if (what.fails && !what.done) return what.rv;
  pthread_mutex_lock(&lock);
  int twice = what.twice && memcmp(&seen.st_mtim, &seen_first.st_mtim, sizeof seen.st_mtim) && most > 1;
  pthread_mutex_unlock(&lock);
  U rv = real->C_FindObjects(session, objects, twice ? most / 2 : most, count), *found = objects, *many = count;
  if (rv == CKR_OK && twice) {
    for (U i = *many; i-- > 0;) found[2 * i] = found[2 * i + 1] = found[i];
    *many *= 2;
  }
  return ended(what, rv);
}

U C_GetTokenInfo(U slot, P info) {
  struct rule what = chaos("C_GetTokenInfo");
  if (what.fails && !what.done) return what.rv;
  U rv = real->C_GetTokenInfo(SLOT(slot), info), *counts = (U *)((B *)info + TOKEN_COUNTS);
  if (rv == CKR_OK && said.sessions) counts[0] = counts[2] = said.sessions;
  return ended(what, rv);
}

#define OF_SLOT(name, parameters, arguments) \
  U name parameters { \
    struct rule what = chaos(#name); \
    if (what.fails && !what.done) return what.rv; \
    slot = SLOT(slot); \
    return ended(what, real->name arguments); \
  }
OF_SLOT(C_GetMechanismList, (U slot, P list, P count), (slot, list, count))
OF_SLOT(C_GetMechanismInfo, (U slot, U mechanism, P info), (slot, mechanism, info))
OF_SLOT(C_InitToken, (U slot, P pin, U size, P label), (slot, pin, size, label))

struct attribute {
  U type;
  P value;
  U size;
};

U C_GetAttributeValue(U session, U object, P template, U count) {
  struct rule what = chaos("C_GetAttributeValue");
  if (what.fails && !what.done) return what.rv;
  struct attribute *wanted = template;
  U before = count;
  for (U i = 0; said.attribute && i < count; i++)
    if (wanted[i].type == said.attribute) before = i;
  if (before == count) return ended(what, real->C_GetAttributeValue(session, object, template, count));
  U rv = said.attribute_stops && !before ? CKR_OK
         : real->C_GetAttributeValue(session, object, template, said.attribute_stops ? before : count);
  wanted[before].size = UNAVAILABLE;
  return ended(what, rv == CKR_OK ? CKR_ATTRIBUTE_TYPE_INVALID : rv);
}

static struct functions ours = {
  2, 40,
#define POINTER(name, parameters, arguments) name,
  FUNCTIONS(POINTER, POINTER)
};

U C_GetFunctionList(P list) {
  const char *path = getenv("CHAOS_MODULE");
  if (!real) {
    P module = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND) : NULL;
    U (*get)(struct functions **) = module ? (U (*)(struct functions **))dlsym(module, "C_GetFunctionList") : NULL;
    if (!get) {
      fprintf(stderr, "chaos: CHAOS_MODULE names no PKCS#11 module: %s\n", path ? path : "it is not set");
      return CKR_GENERAL_ERROR;
    }
    U rv = get(&real);
    if (rv) return rv;
  }
  *(struct functions **)list = &ours;
  return CKR_OK;
}
