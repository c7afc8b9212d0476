; y[c] = sum over r of weights[r] * v[r * stride + c]; the vectors of four floats are made by LLVM.
define void @weight_rows(ptr noalias %v, ptr noalias %weights, ptr noalias %y, i32 %rows, i32 %columns, i32 %stride) {
start:
  br label %clear
clear:
  %k = phi i32 [ 0, %start ], [ %next_k, %clear ]
  %k_at = getelementptr inbounds float, ptr %y, i32 %k
  store float 0.0, ptr %k_at
  %next_k = add nuw nsw i32 %k, 1
  %uncleared = icmp ult i32 %next_k, %columns
  br i1 %uncleared, label %clear, label %row
row:
  %r = phi i32 [ 0, %clear ], [ %next_r, %row_end ]
  %first = mul i32 %r, %stride
  %weight_at = getelementptr inbounds float, ptr %weights, i32 %r
  %weight = load float, ptr %weight_at
  br label %column
column:
  %c = phi i32 [ 0, %row ], [ %next_c, %column ]
  %i = add nsw i32 %first, %c
  %v_at = getelementptr inbounds float, ptr %v, i32 %i
  %y_at = getelementptr inbounds float, ptr %y, i32 %c
  %value = load float, ptr %v_at
  %sum = load float, ptr %y_at
  %product = fmul fast float %weight, %value
  %new_sum = fadd fast float %sum, %product
  store float %new_sum, ptr %y_at
  %next_c = add nuw nsw i32 %c, 1
  %more_columns = icmp ult i32 %next_c, %columns
  br i1 %more_columns, label %column, label %row_end
row_end:
  %next_r = add nuw nsw i32 %r, 1
  %more_rows = icmp ult i32 %next_r, %rows
  br i1 %more_rows, label %row, label %end
end:
  ret void
}
