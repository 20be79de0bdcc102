#include "textflag.h"

// The helper task: see calls_linux.go for the layout of the list and of a call.
// It uses registers only, calls nothing, and never touches Go's stack or TLS.

#define BOX R12
#define CALL R13
#define LEFT R15

#define SYS_futex 202
#define SYS_clone 56
#define SYS_exit_group 231
#define SYS_prctl 157
#define SYS_pidfd_send_signal 424

// func spawn(flags, stack, ctid, box uintptr) (pid uintptr)
TEXT ·spawn(SB), NOSPLIT, $0-40
	MOVQ flags+0(FP), DI
	MOVQ stack+8(FP), SI
	XORL DX, DX
	MOVQ ctid+16(FP), R10
	XORL R8, R8
	MOVQ box+24(FP), BOX
	MOVL $SYS_clone, AX
	SYSCALL
	TESTQ AX, AX
	JEQ  helper
	MOVQ AX, pid+32(FP)
	RET

helper:
	// If it is stopped, it goes on when the thread dies that is its parent, and finds
	// the word: prctl(PR_SET_PDEATHSIG, SIGCONT).
	MOVL $1, DI
	MOVL $18, SI
	MOVL $SYS_prctl, AX
	SYSCALL

wait:
	MOVL 0(BOX), AX
	CMPL AX, $2            // stateRequest
	JEQ  run
	CMPL AX, $1            // stateIdle
	JNE  exit
	MOVQ BOX, DI
	XORL SI, SI            // FUTEX_WAIT
	MOVL $1, DX            // while stateIdle
	XORL R10, R10
	MOVL $SYS_futex, AX
	SYSCALL
	JMP  wait

run:
	LEAQ 64(BOX), CALL
	MOVL 4(BOX), LEFT

next:
	TESTL LEFT, LEFT
	JEQ  done
	CMPL 0(BOX), $2        // else nobody waits for the rest
	JNE  exit
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
	JHI  done
	SUBL BX, LEFT
	IMULQ $72, BX
	ADDQ BX, CALL
	JMP  next

done:
	// From stateRequest to stateIdle; what says that it is the end stays.
	MOVL $2, AX
	MOVL $1, CX
	LOCK
	CMPXCHGL CX, 0(BOX)
	JNE  exit
	MOVQ BOX, DI
	MOVL $1, SI            // FUTEX_WAKE
	MOVL $1, DX
	MOVL $SYS_futex, AX
	SYSCALL
	JMP  wait

exit:
	CMPL 0(BOX), $0        // stateGone
	JNE  leave

	// The program is no more. Its commands end, each with its process group (which
	// the kernel does from Linux 6.9 on).
	LEAQ ·commands(SB), CALL
	MOVL 0(CALL), LEFT

kill:
	TESTL LEFT, LEFT
	JEQ  leave
	SUBL $1, LEFT
	MOVL 4(CALL)(LEFT*4), DI
	TESTL DI, DI
	JLT  kill
	MOVL $9, SI            // SIGKILL
	XORL DX, DX
	XORL R10, R10
	MOVL $SYS_pidfd_send_signal, AX
	SYSCALL
	MOVL $4, R10           // PIDFD_SIGNAL_PROCESS_GROUP
	MOVL $SYS_pidfd_send_signal, AX
	SYSCALL
	JMP  kill

leave:
	XORL DI, DI
	MOVL $SYS_exit_group, AX
	SYSCALL
	INT  $3
