#include "textflag.h"

// The start of a command: see launch_linux.go for the layout of a launch, and
// calls_linux.go for that of a call. What runs in the watcher and in the
// command uses registers only, calls nothing, and never touches Go's stack or TLS.

#define BOX R12
#define CALL R13
#define LEFT R15

#define SYS_close 3
#define SYS_munmap 11
#define SYS_rt_sigprocmask 14
#define SYS_clone 56
#define SYS_exit 60
#define SYS_getppid 110
#define SYS_prctl 157
#define SYS_futex 202
#define SYS_exit_group 231
#define SYS_waitid 247

// func watch(box, flags, stack uintptr) (tid uintptr)
TEXT ·watch(SB), NOSPLIT, $0-32
	MOVQ box+0(FP), BOX
	MOVL $2, DI            // SIG_SETMASK
	LEAQ 32(BOX), SI       // all
	LEAQ 40(BOX), DX       // mask
	MOVL $8, R10
	MOVL $SYS_rt_sigprocmask, AX
	SYSCALL
	MOVQ flags+8(FP), DI
	MOVQ stack+16(FP), SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	MOVL $SYS_clone, AX
	SYSCALL
	TESTQ AX, AX
	JEQ  watcher
	MOVQ AX, tid+24(FP)
	MOVL $2, DI
	LEAQ 40(BOX), SI
	XORL DX, DX
	MOVL $8, R10
	MOVL $SYS_rt_sigprocmask, AX
	SYSCALL
	RET

watcher:
	// It sleeps until the command has executed the program, or is dead.
	MOVL $0x1005111, DI    // CLONE_VM|CLONE_VFORK|CLONE_PIDFD|CLONE_CHILD_SETTID|SIGCHLD
	XORL SI, SI            // the same stack
	MOVQ 64(BOX), DX       // slot
	LEAQ 16(BOX), R10      // pid
	XORL R8, R8
	MOVL $SYS_clone, AX
	SYSCALL
	TESTQ AX, AX
	JEQ  command
	MOVQ AX, 24(BOX)
	MOVL 0(BOX), DI        // done
	MOVL $SYS_close, AX
	SYSCALL

hold:
	// Until Start has read the results.
	MOVL 20(BOX), AX
	TESTL AX, AX
	JNE  live
	LEAQ 20(BOX), DI
	XORL SI, SI            // FUTEX_WAIT
	XORL DX, DX            // while it is 0
	XORL R10, R10
	MOVL $SYS_futex, AX
	SYSCALL
	JMP  hold

live:
	MOVL $1, DI            // P_PID
	MOVL 16(BOX), SI
	XORL DX, DX
	MOVL $0x1000004, R10   // WEXITED|WNOWAIT
	XORL R8, R8
	MOVL $SYS_waitid, AX
	SYSCALL
	CMPQ AX, $-4           // EINTR
	JEQ  live
	MOVQ BOX, DI
	MOVQ 56(BOX), SI
	MOVL $SYS_munmap, AX
	SYSCALL
	XORL DI, DI
	MOVL $SYS_exit, AX
	SYSCALL
	INT  $3

command:
	// Die with the watcher: prctl(PR_SET_PDEATHSIG, SIGKILL). If it died before
	// that, the parent is another process already.
	MOVL $1, DI
	MOVL $9, SI
	MOVL $SYS_prctl, AX
	SYSCALL
	MOVQ AX, 72(BOX)
	TESTQ AX, AX
	JNE  exit              // a seccomp filter forbids it
	MOVL $SYS_getppid, AX
	SYSCALL
	CMPQ AX, 8(BOX)
	JNE  exit
	MOVL 48(BOX), AX       // cancelled
	TESTL AX, AX
	JNE  exit
	LEAQ 88(BOX), CALL
	MOVL 4(BOX), LEFT

next:
	TESTL LEFT, LEFT
	JEQ  exit
	MOVQ 0(CALL), AX
	MOVQ 8(CALL), DI
	MOVQ 16(CALL), SI
	MOVQ 24(CALL), DX
	MOVQ 32(CALL), R10
	MOVQ 40(CALL), R8
	MOVQ 48(CALL), R9
	SYSCALL
	MOVQ AX, 56(CALL)
	MOVL $1, BX
	CMPQ AX, $-4095
	JCS  advance           // no error
	ADDL 64(CALL), BX      // an error skips the calls that depend on this one

advance:
	CMPL BX, LEFT
	JHI  exit
	SUBL BX, LEFT
	IMULQ $72, BX
	ADDQ BX, CALL
	JMP  next

exit:
	MOVL $127, DI
	MOVL $SYS_exit_group, AX
	SYSCALL
	INT  $3
